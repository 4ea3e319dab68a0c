"""The typed run configuration: every field is a command-line option, and its docstring the help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from envs.base import EnvConfig
from students.config import ResidualConfig, StudentConfig
from students.diffusion.config import DiffusionConfig


class PPOConfig(BaseModel):
    """Proximal policy optimisation (Schulman et al., 2017, arXiv 1707.06347)."""

    model_config = ConfigDict(extra="forbid")

    num_steps: int = Field(25, ge=1)
    """Control steps per environment and iteration."""
    epochs: int = Field(5, ge=1)
    """Passes over the batch per iteration."""
    minibatches: int = Field(8, ge=1)
    """Minibatches per epoch."""
    lr: float = Field(3e-4, gt=0)
    """Adam learning rate."""
    anneal_lr: bool = False
    """Decay the learning rate linearly to zero over the run."""
    gamma: float = Field(0.8, ge=0, le=1)
    """Discount per control step."""
    gae_lambda: float = Field(0.9, ge=0, le=1)
    """Lambda of generalised advantage estimation."""
    finite_horizon_gae: bool = False
    """Renormalise lambda weights over the steps that remain in the rollout (ManiSkill's PPO variant)."""
    clip: float = Field(0.2, gt=0)
    """Clip range of the probability ratio."""
    clip_value: float | None = Field(None, gt=0)
    """Clip range of the value update; None: no clipping."""
    value_coef: float = Field(0.5, ge=0)
    """Weight of the value loss."""
    entropy_coef: float = Field(0.004, ge=0)
    """Weight of the entropy bonus."""
    max_grad_norm: float = Field(0.5, gt=0)
    """Clip of the global gradient norm."""
    target_kl: float | None = Field(None, gt=0)
    """Stop the epochs of an iteration once KL(old || new) exceeds this; None: never. A teacher's pull is meant to move the
    policy far, so this suits mode ppo."""


class DistillConfig(BaseModel):
    """w(t) * mean_n[ gate(n) * D(student, teacher)(n) ], added to the PPO loss (RPD, arXiv 2503.05833).

    With divergence=opd: w(t) * gate(n) * A_D(n), added to PPO's advantage (VLA-OPD, arXiv 2603.26666).
    """

    model_config = ConfigDict(extra="forbid")

    divergence: Annotated[
        Literal["mse", "l1", "huber", "nearest", "nll", "fkl", "rkl", "opd"], tyro.conf.arg(aliases=("--distill",))
    ] = "nll"
    """D; see docs/distillation.md."""
    weight: float = Field(2.0, ge=0)
    """w(0). With schedule=gradient-ratio: the ratio of gradient norms that is held at the start."""
    schedule: Literal["constant", "linear", "cosine", "gradient-ratio"] = "linear"
    """How w(t) develops. All but constant reach zero at `until`."""
    until: float = Field(0.5, gt=0, le=1)
    """Fraction of the run at which w reaches zero."""
    gate: Literal["none", "success-surpassed", "entropy"] = "none"
    """Which observations are distilled; see rpd/distill/gates.py."""
    gate_beta: float = Field(1.0, ge=0)
    """entropy gate: exp(-beta H_T)."""
    preserve_mean: bool = False
    """Divide by the mean of the gate, so that it changes where to distil and not how much."""
    detach_std: bool = True
    """Keep D from moving the student's standard deviation (divergences that see it: nll, fkl, rkl)."""
    teacher_std: float = Field(0.2, gt=0)
    """Floor of a Gaussian teacher's standard deviation in fkl, rkl and opd, and what each of a teacher's samples is widened
    by; how a score falls beyond a teacher's bins."""
    bin_blur: float = Field(0.03, gt=0)
    """Standard deviation, in normalised action units, of the Gaussian that a teacher's bins are blurred with (fkl, rkl)."""
    bin_floor: float = Field(1e-3, gt=0, lt=1)
    """Part of a teacher's bins that is spread evenly over all of them (fkl, rkl): what a mistake costs has a bound."""
    opd_clip: float = Field(10.0, gt=0)
    """opd: bound of |A_D|, nats."""
    label_fraction: float = Field(1.0, gt=0, le=1)
    """Fraction of the collected observations that the teacher labels."""


class PerceptionConfig(BaseModel):
    """How a student with `student.perceive` learns to see: after each PPO update, from the newest and earlier images."""

    model_config = ConfigDict(extra="forbid")

    lr: float = Field(3e-3, gt=0)
    """Adam learning rate at the start; falls linearly to a tenth over the run."""
    minibatches: int = Field(48, ge=1)
    """Minibatches per iteration."""
    minibatch_size: int = Field(256, ge=2)
    """Observations in each: half of the newest batch, half of those kept."""
    keep: int = Field(20_000, ge=1)
    """Observations that are kept over the run, in memory and in each checkpoint (12 kB per 64 x 64 image): one batch shows
    an encoder too few scenes, and it forgets them for the next."""


class DenoiseConfig(BaseModel):
    """How a student of kind diffusion learns."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(128, ge=1)
    """Chunks per gradient step."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of AdamW after the warm-up; falls to a hundredth along a cosine."""
    warmup: int = Field(200, ge=0)
    """Gradient steps over which the learning rate rises."""
    weight_decay: float = Field(1e-6, ge=0)
    """Of AdamW."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Largest decay of the average of the weights, which is what acts; 0: the newest weights."""
    sampler: str | None = None
    """Sampler of the evaluations, see docs/diffusion.md; default: ddim with 16 steps, or euler."""


class RunConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(extra="forbid")

    base: Annotated[str | None, tyro.conf.Suppress] = None
    """Frozen policy that the student corrects: a run, a checkpoint, a policy folder, or teacher:NAME. See `rpd residual`."""
    task: str
    """Task, e.g. tabletop/PickCube; see `rpd list`."""
    mode: Literal["rpd", "ppo", "dagger", "bc"] = "rpd"
    """rpd: reward and teacher; ppo: reward only; dagger: teacher only, on the student's own states; bc: demonstrations only."""
    teacher: str | None = None
    """Teacher, e.g. scripted:noise=0.5 or policy:runs/x; see `rpd list`."""
    demos: tuple[Path, ...] = ()
    """Demonstrations to learn from in mode bc: folders of `rpd collect`, see docs/demonstrations.md."""
    residual: Annotated[ResidualConfig, tyro.conf.Suppress] = Field(default_factory=ResidualConfig)
    init: str | None = None
    """Trained policy to start from in place of random weights: a run, a checkpoint or a policy folder. Its network replaces
    student, but for how far is explored and student.augment; it may come from any robot on which it fits (student.reads)."""
    env: EnvConfig = Field(default_factory=EnvConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    perception: PerceptionConfig = Field(default_factory=PerceptionConfig)
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    denoise: DenoiseConfig = Field(default_factory=DenoiseConfig)
    total_steps: int = Field(500_000, ge=1)
    """Environment steps in all; mode bc: rows of demonstrations that are learnt from, each as often as it is drawn."""
    seed: int = Field(0, ge=0)
    """Seed of everything: environments, teacher, initial weights, minibatches."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch and the simulator (default: one for torch, every core for the simulator)."""
    eval_every: int = Field(100_000, ge=1)
    """Environment steps between evaluations of the deterministic policy."""
    eval_episodes: int = Field(100, ge=1)
    """Episodes per evaluation, always on the same seeds."""
    final_episodes: int = Field(200, ge=1)
    """Episodes on which teacher and final student are compared, on seeds that no curve has seen."""
    checkpoint_every: int = Field(100_000, ge=1)
    """Environment steps between checkpoints."""
    keep_checkpoints: int = Field(3, ge=1)
    """Newest checkpoints that are kept."""

    @property
    def uses_reward(self) -> bool:
        """Whether the reward is learnt from; else a teacher or demonstrations are all there is."""
        return self.mode in ("rpd", "ppo")
