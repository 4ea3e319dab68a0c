"""Configuration of `rpd teacher finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rpd.config.tracking import Track

Family = Literal["openvla", "octo"]


class CloneConfig(BaseModel):
    """One training run of a vision-language-action model."""

    model_config = ConfigDict(extra="forbid")

    data: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Demonstrations, see `rpd data collect`: one or more folders; one model learns all their tasks."""
    family: Family = "openvla"
    """Kind of model: openvla predicts tokens of action bins, octo denoises chunks of actions."""
    init: str = "small"
    """Initial model: a size in teachers/<family>/sizes/ for a new one (small), or a checkpoint to fine-tune, a folder or a hub
    id."""
    camera: str | None = None
    """Camera of the images; default: the first recorded one."""
    key: str = "demos"
    """Name of the action statistics in the checkpoint, its unnorm_key."""
    train_steps: int = Field(20_000, ge=1)
    """Gradient steps of the whole model."""
    scene_steps: int = Field(0, ge=0)
    """Gradient steps before those of the vision backbone alone, which predicts the scene (see scene_weight) at a third of the
    cost."""
    batch_size: int = Field(128, ge=1)
    """Observations per step."""
    balance: float = Field(1.0, ge=0, le=1)
    """Balance between tasks: a task is drawn in proportion to the number of its observations to the power of 1 - balance. 1:
    tasks equally often; 0: observations equally often."""
    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of AdamW after the warm-up; decays to 1 % along a cosine, in both stages. Default: 1e-3 for a
    new model, 5e-4 for adapters, 2e-5 for fine-tuning all weights."""
    warmup_steps: int = Field(200, ge=0)
    """Gradient steps of the linear warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    smoothing: float = Field(0.0, ge=0)
    """openvla: standard deviation of the targets over neighboring bins; 0: plain cross-entropy. About 3 speeds up the training
    of a new model."""
    scene_weight: float = Field(0.0, ge=0)
    """Weight of an auxiliary loss that predicts object positions from the visual tokens; replaces the pre-training that a new
    vision backbone lacks. Requires demonstrations with --privileged True."""
    lora: int = Field(0, ge=0)
    """Rank of low-rank adapters, which are then the only trained weights; 0: train all weights."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Type of the saved weights; octo: except the head's, which are fp32."""
    validation: float = Field(0.02, gt=0, lt=0.5)
    """Fraction of the episodes held out for validation."""
    eval_freq: int = Field(1000, ge=1)
    """Gradient steps between validations."""
    eval_episodes: int = Field(100, ge=0)
    """Episodes per task in the evaluation of the final model; 0: none."""
    save_freq: int = Field(1000, ge=1)
    """Steps between checkpoints."""
    max_bytes: int = Field(2**33, ge=0)
    """Memory for demonstrations, bytes; the rest is read from disk."""
    seed: int = Field(0, ge=0)
    """Random seed of initial weights and minibatches."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch; default: every core."""
    track: Track = ()
    """Record metrics also with Weights & Biases (wandb) or MLflow (mlflow), whose environment variables apply."""

    @property
    def total_steps(self) -> int:
        """Gradient steps of both stages."""
        return self.scene_steps + self.train_steps
