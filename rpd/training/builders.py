"""Build the student, the teacher and the distillation objective of a run."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from rpd.algorithms.distillation import DistillObjective
from rpd.config.schema import RunConfig
from rpd.core.distributed import SOLO, World
from rpd.envs.errors import ConfigError
from rpd.envs.vector_env import VectorEnv
from rpd.students.actor_critic import ActorCritic
from rpd.students.generalist import GeneralistActorCritic
from rpd.students.io import pretrained
from rpd.students.io.policy_path import resolve_policy
from rpd.students.residual import ResidualActorCritic
from rpd.teachers import registry
from rpd.teachers import registry as teachers
from rpd.teachers.base import Teacher
from rpd.teachers.refs import parse, required_path, trained_path


def make_policy(config: RunConfig, env: VectorEnv) -> ActorCritic:
    """Build the student of a new run: new, a copy of `RunConfig.pretrained_path`, or a residual policy of `RunConfig.base`.

    Raises:
        ConfigError: no such policy, a baseline as the base, or an option that does not fit the type of student.
        SpecMismatch: the base does not fit the environment; names both sides.
    """
    if config.student.type == "diffusion":
        raise ConfigError(
            f"student.type diffusion learns from demonstrations only: use algorithm bc with --demos, not {config.algorithm}"
        )
    if config.pretrained_path is not None:
        return _started(config, env)
    if config.base is None:
        return ActorCritic(env.spec, config.student).to(env.device)
    if config.algorithm == "bc":
        raise ConfigError("algorithm bc cannot train a residual policy: use ppo, rpd or dagger, or leave out the base")
    base: ActorCritic | str
    identity: str | None = None
    if parse(config.base).is_baseline:
        raise ConfigError(f"base {config.base} ignores observations: use a trained policy or a teacher")
    path = trained_path(config.base, "base")
    if (
        path is None or pretrained.describe(resolve_policy(path)).diffusion is not None
    ):  # an external base, queried as a teacher
        base, identity = config.base, registry.identity(config.base)
    else:
        base = ActorCritic.from_pretrained(resolve_policy(required_path(config.base, "base")), env.device)
        if base.outside is not None:
            raise ConfigError(
                f"{config.base} is itself a residual policy of teacher {base.outside}: use that teacher as the base"
            )
    return ResidualActorCritic(env.spec, config.student, config.residual, base, identity).to(env.device)


def _started(config: RunConfig, env: VectorEnv) -> ActorCritic:
    """Return a copy of `RunConfig.pretrained_path` for the run's robot, with the run's exploration and augmentation."""
    path = required_path(str(config.pretrained_path), "pretrained_path")
    if config.base is not None:
        raise ConfigError(
            f"pretrained_path {config.pretrained_path}: a residual policy starts from its base: leave out one of the two"
        )
    start = ActorCritic.from_pretrained(resolve_policy(path), env.device)
    if isinstance(start, GeneralistActorCritic):
        start.adapt_to(env.spec)
        start.start_finetuning(config.student)
        return start
    if type(start) is not ActorCritic:
        raise ConfigError(
            f"pretrained_path {config.pretrained_path} is a residual policy, whose base would be trained: use a plain policy"
        )
    start.adapt_to(env.spec)
    names = ("init_log_std", "min_log_std", "augment", "asymmetric_critic")
    policy = ActorCritic(env.spec, start.config.model_copy(update={name: getattr(config.student, name) for name in names}))
    policy.to(env.device)
    new = ["log_std_logit"]
    if policy.config.asymmetric_critic != start.config.asymmetric_critic:
        new += [name for name in policy.state_dict() if name.startswith("critic.")]
    policy.load_state_dict({**start.state_dict(), **{name: policy.state_dict()[name] for name in new}})
    last = cast("nn.Linear", policy.actor[-1])
    with torch.no_grad():  # keep the physical size of the actions
        last.weight.mul_(start.rescale[:, None])
        last.bias.mul_(start.rescale)
    return policy


def make_teacher(config: RunConfig, env: VectorEnv, seed: int | None = None) -> Teacher | None:
    """Build the run's teacher; None for the algorithms ppo and bc.

    Args:
        config: configuration of the run.
        env: the environment.
        seed: seed of the teacher's random numbers; None: that of the run.

    Raises:
        ConfigError: the algorithm needs a teacher or uses none, or see `rpd.teachers.registry.make`.
    """
    if config.algorithm in ("ppo", "bc"):
        if config.teacher is not None:
            raise ConfigError(
                f"algorithm {config.algorithm} uses no teacher, but teacher is '{config.teacher}': leave it out, or use rpd"
            )
        return None
    if config.teacher is None:
        raise ConfigError(
            f"algorithm {config.algorithm} needs a teacher: add --teacher, e.g. --teacher scripted:noisy; see `rpd list`"
        )
    teacher = teachers.make(config.teacher, env.spec, env.device)
    teacher.seed(config.seed if seed is None else seed)
    return teacher


def make_objective(config: RunConfig, teacher: Teacher | None, env: VectorEnv, world: World = SOLO) -> DistillObjective | None:
    """Build the distillation objective and check it against the teacher's output fields; None without a teacher."""
    if teacher is None:
        return None
    return DistillObjective(
        config.distill, teacher.name, teacher.output_fields, env.spec.action.discrete,
        use_reward=config.uses_reward, bin_edges=teacher.bin_edges, world=world,
    )  # fmt: skip
