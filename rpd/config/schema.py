"""Typed configuration of a training run: every field is a command-line option, and its docstring the help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rpd.config.divergences import check_divergence, divergence_hint
from rpd.config.gates import check_gate, gate_hint
from rpd.config.points import check_points, check_reward_points
from rpd.config.tracking import Track
from rpd.envs.config import EnvConfig
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.diffusion.config import DiffusionConfig


class PPOConfig(BaseModel):
    """Proximal policy optimization (Schulman et al., 2017, arXiv 1707.06347)."""

    model_config = ConfigDict(extra="forbid")

    num_steps: int = Field(25, ge=1)
    """Control steps per environment and iteration."""
    update_epochs: int = Field(5, ge=1)
    """Passes over the batch per iteration."""
    num_minibatches: int = Field(8, ge=1)
    """Minibatches per epoch."""
    learning_rate: float = Field(3e-4, gt=0)
    """Adam learning rate."""
    anneal_lr: bool = False
    """Decay the learning rate linearly to zero over the run."""
    gamma: float = Field(0.8, ge=0, le=1)
    """Discount per control step."""
    gae_lambda: float = Field(0.9, ge=0, le=1)
    """Lambda of generalized advantage estimation."""
    finite_horizon_gae: bool = False
    """Renormalize lambda weights over the steps left in the rollout (variant of ManiSkill's PPO)."""
    clip_coef: float = Field(0.2, gt=0)
    """Clip range of the probability ratio, epsilon."""
    value_clip: float | None = Field(None, gt=0)
    """Clip range of the value update; None: no clipping."""
    vf_coef: float = Field(0.5, ge=0)
    """Weight of the value loss."""
    ent_coef: float = Field(0.004, ge=0)
    """Weight of the entropy bonus."""
    max_grad_norm: float = Field(0.5, gt=0)
    """Maximum global gradient norm."""
    target_kl: float | None = Field(None, gt=0)
    """Stop the epochs of an iteration once KL(old || new) exceeds this; None: never. Meant for algorithm ppo: distillation is
    supposed to move the policy further."""


class DistillConfig(BaseModel):
    """w(t) * mean_n[ gate(n) * D(student, teacher)(n) ], added to the PPO loss (RPD, arXiv 2503.05833)."""

    model_config = ConfigDict(extra="forbid")

    divergence: Annotated[
        str,
        AfterValidator(check_divergence),
        tyro.conf.arg(aliases=("--distill",), metavar="NAME", help_behavior_hint=divergence_hint),
    ] = "nll"
    """Divergence D; see docs/distillation.md."""
    weight: float = Field(2.0, ge=0)
    """w(0). With schedule=gradient-ratio: initial ratio of the gradient norms."""
    schedule: Literal["constant", "linear", "cosine", "piecewise", "gradient-ratio"] = "linear"
    """Schedule of w(t). All but constant and piecewise reach zero at `decay_steps`."""
    decay_steps: int = Field(250_000, ge=1)
    """Environment steps after which w is zero; not a fraction of the run, so that a shorter one keeps its teacher as long."""
    target: Literal["teacher", "taid"] = "teacher"
    """Target of D: the teacher, or one that moves from the student to the teacher, at the latest at `decay_steps` (TAID)."""
    points: Annotated[str, AfterValidator(check_points)] = ""
    """Points of schedule piecewise, in place of `weight`: STEP:WEIGHT,... in environment steps, e.g. 0:2,100000:1,250000:0."""
    reward_points: Annotated[str, AfterValidator(check_reward_points)] = ""
    """Weight of PPO's surrogate, STEP:WEIGHT,... in environment steps, e.g. 0:0,20000:1 for a warm-up on the teacher alone,
    during which the critic learns; empty: 1."""
    gate: Annotated[str, AfterValidator(check_gate), tyro.conf.arg(metavar="NAME,...", help_behavior_hint=gate_hint)] = "none"
    """Gate: which observations are distilled, a product of several names; see docs/distillation.md."""
    gate_beta: float = Field(1.0, ge=0)
    """Sharpness of the gates entropy, exp(-beta H_T), and in-distribution."""
    gate_std: float = Field(0.3, gt=0)
    """Standard deviation of a teacher's actions at which the gates of confidence close, in normalized action units."""
    normalize_gate: bool = False
    """Divide by the mean of the gate, so that it changes where to distill and not how much."""
    detach_std: bool = True
    """Do not backpropagate D into the student's standard deviation; neighborhood always does."""
    min_teacher_std: float = Field(0.2, gt=0)
    """Lower bound of a Gaussian teacher's standard deviation, in normalized action units; of neighborhood, the width."""
    kde_bandwidth: float = Field(0.2, gt=0)
    """Standard deviation of the Gaussian kernel on each of a teacher's samples, in normalized action units."""
    bin_tail_std: float = Field(0.2, gt=0)
    """Scale of the Gaussian tail beyond a teacher's outermost bins, in normalized action units."""
    bin_smoothing_std: float = Field(0.03, gt=0)
    """Standard deviation of the Gaussian blur of a teacher's bins, in normalized action units."""
    uniform_mix: float = Field(1e-3, gt=0, lt=1)
    """Weight of a broad Gaussian mixed into a teacher's bins; bounds the divergence far from the teacher."""
    opd_samples: int = Field(4, ge=1)
    """Number of the student's actions per observation that the teacher's distribution scores (opd)."""
    opd_teacher_score: bool = False
    """opd: let the teacher score the executed action itself, in place of `opd_samples` actions by the distribution that it
    gives: for teachers whose dimensions depend on each other."""
    opd_clip: float = Field(10.0, gt=0)
    """Upper bound of an advantage per dimension, nats (opd)."""
    jsd_beta: float = Field(0.5, gt=0, lt=1)
    """jsd: weight of the teacher in the mixture; towards 0 it is fkl, towards 1 rkl, both divided by their limit."""
    skew_alpha: float = Field(0.1, gt=0, lt=1)
    """skew-fkl, skew-rkl: weight of the first distribution in the mixture; bounds the divergence by -log alpha."""
    label_fraction: float = Field(1.0, gt=0, le=1)
    """Fraction of the collected observations that the teacher labels."""


class PerceptionConfig(BaseModel):
    """State estimator of an image student: trained after each PPO update, on the newest and on replayed images."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(3e-3, gt=0)
    """Initial Adam learning rate; decays linearly to 10 % over the run."""
    num_minibatches: int = Field(48, ge=1)
    """Minibatches per iteration."""
    minibatch_size: int = Field(256, ge=2)
    """Observations per minibatch: half from the newest batch, half replayed."""
    replay_capacity: int = Field(20_000, ge=1)
    """Observations in the replay buffer, in memory and in each checkpoint (12 kB per 64 x 64 image). One batch alone has too
    few scenes to train an encoder, and training on the newest only would forget the others."""


class BehaviorCloningConfig(BaseModel):
    """Behavior cloning from demonstrations (algorithm bc)."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(128, ge=1)
    """Rows of demonstrations (student.type diffusion: chunks) per gradient step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW after the warm-up."""
    anneal_lr: bool = True
    """Decay the learning rate to a hundredth along a cosine over the run; False: constant after the warm-up."""
    warmup_steps: int = Field(200, ge=0)
    """Gradient steps over which the learning rate rises."""
    weight_decay: float = Field(1e-6, ge=0)
    """Weight decay of AdamW."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Largest decay of the moving average of the weights, which is evaluated and saved; 0: the newest weights."""
    loss: Literal["nll", "mse", "l1", "huber"] = "nll"
    """Distance of an actor-critic student's action from the demonstrated one; nll: negative log-likelihood at the constant
    standard deviation of student.init_log_std. In discrete dimensions always the cross-entropy."""
    intervention_fraction: float = Field(0.5, gt=0, lt=1)
    """Fraction of the drawn rows that are corrections by an operator, if --demos has records of `rpd deploy --operator` and
    other demonstrations; of such records only the corrections are drawn. See docs/corrections.md."""
    sampler: str | None = None
    """Sampler of a diffusion student's evaluations, see docs/diffusion.md; default: ddim with 16 steps, or euler."""


class RunConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(extra="forbid")

    base: Annotated[str | None, tyro.conf.Suppress] = None
    """Frozen policy that the student corrects: policy reference to a trained policy or a teacher. See `rpd residual`."""
    task: str
    """Task, e.g. tabletop/PickCube; see `rpd list`."""
    algorithm: Literal["rpd", "ppo", "dagger", "bc"] = "rpd"
    """rpd: reward and teacher; ppo: reward only; dagger: teacher only, on the student's own states; bc: demonstrations only."""
    teacher: str | None = None
    """Teacher: policy reference, e.g. scripted:noise=0.5 or runs/x; see `rpd list teachers`."""
    demos: tuple[Path, ...] = ()
    """Demonstrations for algorithm bc: folders of `rpd data collect`, see docs/demonstrations.md."""
    residual: Annotated[ResidualConfig, tyro.conf.Suppress] = Field(default_factory=ResidualConfig)
    pretrained_path: str | None = None
    """Trained policy to start from instead of random weights: a run, a checkpoint or a policy folder. Its network replaces
    student, except for the exploration noise and student.augment; for use on other robots see student.state_keys."""
    env: EnvConfig = Field(default_factory=EnvConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    state_estimator: PerceptionConfig = Field(default_factory=PerceptionConfig)
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    bc: BehaviorCloningConfig = Field(default_factory=BehaviorCloningConfig)
    total_timesteps: int = Field(500_000, ge=1)
    """Environment steps of the run; algorithm bc: demonstration rows drawn, counted with repetition."""
    seed: int = Field(0, ge=0)
    """Random seed of environments, teacher, initial weights and minibatches."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto (cuda where there is one)."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads for torch and the simulator (default: one for torch, every core for the simulator)."""
    eval_freq: int = Field(100_000, ge=1)
    """Environment steps between evaluations of the deterministic policy."""
    eval_episodes: int = Field(100, ge=1)
    """Episodes per evaluation, always on the same seeds."""
    final_eval_episodes: int = Field(200, ge=1)
    """Episodes of the final comparison of teacher and student, on seeds that no learning curve uses."""
    eval_seed_offset: int = Field(0, ge=0, le=7_000_000)
    """Added to the seeds of all evaluations; `rpd tune` thus chooses no settings on the episodes of results."""
    save_freq: int = Field(100_000, ge=1)
    """Environment steps between checkpoints."""
    max_checkpoints: int = Field(3, ge=1)
    """Number of newest checkpoints to keep."""
    track: Track = ()
    """Record metrics also with Weights & Biases (wandb) or MLflow (mlflow), whose environment variables apply."""

    @property
    def uses_reward(self) -> bool:
        """Whether the algorithm uses the reward; otherwise it learns from a teacher or demonstrations alone."""
        return self.algorithm in ("rpd", "ppo")
