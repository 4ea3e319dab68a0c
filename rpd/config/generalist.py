"""What `rpd distill` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from students.config import GeneralistConfig, StudentConfig


class DistillRun(BaseModel):
    """One distillation of specialists into a generalist."""

    model_config = ConfigDict(extra="forbid")

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs of the specialists, one per robot and task."""
    held_out: tuple[str, ...] = ()
    """Robots without a specialist, on which the final policy is evaluated too."""
    generalist: GeneralistConfig = Field(default_factory=GeneralistConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    episodes: int = Field(256, ge=1)
    """Episodes that each specialist plays at first."""
    failure_weight: float = Field(0.1, ge=0, le=1)
    """How often a step of an episode in which a specialist failed is drawn, against one of an episode that it solved."""
    steps: int = Field(4000, ge=1)
    """Gradient steps on what the specialists played."""
    rounds: int = Field(4, ge=0)
    """Rounds that follow, in which the generalist plays and its specialists label what it sees."""
    round_episodes: int = Field(64, ge=1)
    """Episodes that the generalist plays per round, robot and task."""
    round_steps: int = Field(1500, ge=1)
    """Gradient steps per round."""
    aggregate: bool = True
    """Learn from all rounds so far (DAgger), or else from the newest alone."""
    divergence: Annotated[Literal["fkl", "rkl", "nll", "mse"], tyro.conf.arg(aliases=("--distill",))] = "fkl"
    """Divergence of the generalist from the specialist, summed over the robot's own action dimensions; fkl: KL(specialist ||
    generalist), see docs/distillation.md."""
    teacher_std: float = Field(0.05, gt=0)
    """Floor of the specialists' standard deviation, in units of the robot's action range."""
    detach_std: bool = False
    """Keep the divergence from moving the generalist's standard deviation."""
    batch_size: int = Field(1024, ge=1)
    """Observations per gradient step, equally many of each robot and task."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of AdamW; falls to a hundredth along a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    storage: Literal["float16", "float32"] = "float16"
    """How states, means and standard deviations are stored."""
    num_envs: int = Field(64, ge=1)
    """Environments per robot and task."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, minibatches and episodes."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch and the simulator (default: one for torch, every core for the simulator)."""
    eval_episodes: int = Field(50, ge=1)
    """Episodes per robot and task after the first stage and after each round."""
    final_episodes: int = Field(200, ge=1)
    """Episodes on which the final policy is compared with the specialists."""
    checkpoint_every: int = Field(2000, ge=1)
    """Gradient steps between checkpoints; there is one after each round, too."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""

    @property
    def total_steps(self) -> int:
        """Gradient steps in all."""
        return self.steps + self.rounds * self.round_steps

    def ends(self, stage: int) -> int:
        """Gradient steps after which a stage ends: 0 is what the specialists played, the others are the rounds."""
        return self.steps + stage * self.round_steps


class DistillOptions(DistillRun):
    """Distil the specialists of several robots into one policy, the generalist."""

    name: str | None = None
    """Name of the run's folder; default: the time."""
    runs_dir: Path = Path("runs")
    """Where run folders are made."""
    resume: Path | None = None
    """Run folder to continue, with its own settings."""

    def config(self) -> DistillRun:
        """What the run itself needs to know."""
        return DistillRun.model_validate(self.model_dump(include=set(DistillRun.model_fields)))
