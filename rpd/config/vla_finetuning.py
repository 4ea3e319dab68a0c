"""What `rpd teacher train` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

Family = Literal["openvla", "octo"]


class CloneConfig(BaseModel):
    """One training run of a vision-language-action model."""

    model_config = ConfigDict(extra="forbid")

    data: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Demonstrations, see `rpd collect`: one folder or several, all their tasks in one model."""
    family: Family = "openvla"
    """Kind of model: openvla answers with tokens of bins, octo denoises chunks of actions."""
    init: str = "small"
    """What learns: a new model of a size in teachers/<family>/sizes/ (small), or a checkpoint to fine-tune, a folder or a hub
    id."""
    camera: str | None = None
    """Camera that it looks through; default: the first that was recorded."""
    key: str = "demos"
    """Name of the demonstrations' action statistics in the checkpoint, its unnorm_key."""
    steps: int = Field(20_000, ge=1)
    """Gradient steps of the whole model."""
    scene_steps: int = Field(0, ge=0)
    """Gradient steps before those, of the eyes alone, which learn to tell the scene (see scene_weight): a third of the cost."""
    batch_size: int = Field(128, ge=1)
    """Observations per step."""
    balance: float = Field(1.0, ge=0, le=1)
    """How often a task is drawn: in proportion to the number of its observations to the power of 1 - balance. 1: each task
    equally often; 0: each observation."""
    lr: float | None = Field(None, gt=0)
    """Learning rate of AdamW after the warm-up; falls to a hundredth along a cosine, in both stages. Default: 1e-3 for a new
    model, 5e-4 for adapters, 2e-5 for all weights of a given one."""
    warmup: int = Field(200, ge=0)
    """Steps over which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    smoothing: float = Field(0.0, ge=0)
    """openvla: standard deviation of the targets over neighbouring bins; 0: plain cross-entropy. A new model learns much
    sooner with 3 or so."""
    scene_weight: float = Field(0.0, ge=0)
    """Weight of a loss that tells from the visual tokens where things are; stands in for the pre-training that a new vision
    backbone lacks. Needs demonstrations with --privileged True."""
    lora: int = Field(0, ge=0)
    """Rank of low-rank adapters, the only thing that learns then; 0: every weight learns."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the weights that are written; octo: but for the head's, which are fp32."""
    validation: float = Field(0.02, gt=0, lt=0.5)
    """Fraction of the episodes that is not learnt from."""
    eval_every: int = Field(1000, ge=1)
    """Steps between looks at the episodes that are not learnt from."""
    eval_episodes: int = Field(100, ge=0)
    """Episodes per task that the final model plays; 0: none."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between checkpoints."""
    max_bytes: int = Field(2**33, ge=0)
    """Memory for demonstrations; what does not fit is read from the disk."""
    seed: int = Field(0, ge=0)
    """Of initial weights and minibatches."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch; default: every core."""

    @property
    def total_steps(self) -> int:
        """Gradient steps of both stages."""
        return self.scene_steps + self.steps


class CloneOptions(CloneConfig):
    """Train or fine-tune a vision-language-action model on demonstrations."""

    name: str | None = None
    """Name of the run's folder; default: the time."""
    runs_dir: Path = Path("runs")
    """Where runs are."""
    resume: Path | None = None
    """Run to continue, with its own settings."""
