"""Configuration of `rpd generalist`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rpd.config.tracking import Track
from rpd.students.config import GeneralistConfig, StudentConfig


class DistillRun(BaseModel):
    """One distillation of specialists into a generalist."""

    model_config = ConfigDict(extra="forbid")

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs of the specialists, one per robot and task."""
    held_out: tuple[str, ...] = ()
    """Robots without a specialist, on which the final policy is evaluated as well."""
    generalist: GeneralistConfig = Field(default_factory=GeneralistConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    episodes: int = Field(256, ge=1)
    """Episodes of each specialist in the first stage."""
    failed_episode_weight: float = Field(0.1, ge=0, le=1)
    """Sampling weight of steps from episodes that a specialist failed, relative to those of solved episodes."""
    train_steps: int = Field(4000, ge=1)
    """Gradient steps on the specialists' episodes."""
    dagger_iterations: int = Field(4, ge=0)
    """DAgger iterations after that: the generalist acts and its specialists label the observations."""
    round_episodes: int = Field(64, ge=1)
    """Episodes of the generalist per iteration, robot and task."""
    round_steps: int = Field(1500, ge=1)
    """Gradient steps per iteration."""
    aggregate_dataset: bool = True
    """Train on the data of all iterations so far (DAgger), not only on the newest."""
    divergence: Annotated[Literal["fkl", "rkl", "nll", "mse"], tyro.conf.arg(aliases=("--distill",))] = "fkl"
    """Divergence from the specialist to the generalist, summed over the robot's own action dimensions; fkl: KL(specialist ||
    generalist), see docs/distillation.md."""
    min_teacher_std: float = Field(0.05, gt=0)
    """Lower bound of the specialists' standard deviation, in units of the robot's action range."""
    detach_std: bool = False
    """Do not backpropagate the divergence into the generalist's standard deviation."""
    batch_size: int = Field(1024, ge=1)
    """Observations per gradient step, equally many per robot and task."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW; decays to 1 % along a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    storage: Literal["float16", "float32"] = "float16"
    """Storage type of states, means and standard deviations."""
    num_envs: int = Field(64, ge=1)
    """Environments per robot and task."""
    seed: int = Field(0, ge=0)
    """Random seed of initial weights, minibatches and episodes."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch and the simulator (default: one for torch, every core for the simulator)."""
    eval_episodes: int = Field(50, ge=1)
    """Episodes per robot and task in the evaluation after each stage."""
    final_eval_episodes: int = Field(200, ge=1)
    """Episodes on which the final policy is compared with the specialists."""
    save_freq: int = Field(2000, ge=1)
    """Gradient steps between checkpoints; each stage ends with one too."""
    max_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints to keep."""
    track: Track = ()
    """Record metrics also with Weights & Biases (wandb) or MLflow (mlflow), whose environment variables apply."""

    @property
    def total_steps(self) -> int:
        """Total number of gradient steps."""
        return self.train_steps + self.dagger_iterations * self.round_steps

    def ends(self, stage: int) -> int:
        """Gradient step at which a stage ends; stage 0 uses the specialists' episodes, the others are DAgger iterations."""
        return self.train_steps + stage * self.round_steps
