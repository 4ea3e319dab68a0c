"""From a run's settings to a student that corrects a frozen base, and to whoever the base is."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from envs.base import VectorEnv
from envs.errors import ConfigError
from rpd.config import RunConfig
from rpd.policies import teacher_of, trained
from students.actor_critic import ActorCritic
from students.generalist import GeneralistActorCritic
from students.locate import resolve_policy
from students.residual import ResidualActorCritic


def make_policy(config: RunConfig, env: VectorEnv) -> ActorCritic:
    """Build the student of a new run: new, with `RunConfig.init` a copy of it, or with `RunConfig.base` a correction of it.

    Raises:
        ConfigError: no such base, or one that acts for nothing in particular.
        SpecMismatch: the base does not fit the environment; names both sides.
    """
    if config.init is not None:
        return _started(config, env)
    if config.base is None:
        return ActorCritic(env.spec, config.student).to(env.device)
    if config.mode == "bc":
        raise ConfigError("mode bc learns from demonstrations, not beside a base: a residual learns by ppo, rpd or dagger")
    base: ActorCritic | str
    if (teacher := teacher_of(config.base)) is not None:
        base = teacher
    elif (path := trained(config.base)) is not None:
        base = ActorCritic.from_pretrained(resolve_policy(path), env.device)
        if base.outside is not None:
            raise ConfigError(f"{config.base} itself corrects teacher {base.outside}: name that as the base")
    else:
        raise ConfigError(f"base {config.base} is no policy to correct: name a run, a policy folder, or teacher:NAME")
    return ResidualActorCritic(env.spec, config.student, config.residual, base).to(env.device)


def _started(config: RunConfig, env: VectorEnv) -> ActorCritic:
    """A student that begins as `RunConfig.init`, on whatever robot, but explores and sees in training as the run says."""
    path = trained(str(config.init))
    if path is None or config.base is not None:
        raise ConfigError(
            f"init {config.init}: name a trained policy, and no base beside it (`rpd residual` begins as its base)"
        )
    start = ActorCritic.from_pretrained(resolve_policy(path), env.device)
    if isinstance(start, GeneralistActorCritic):
        start.fit(env.spec)
        start.start(config.student)
        return start
    if type(start) is not ActorCritic:
        raise ConfigError(f"init {config.init} is a residual, and its base would be trained with it: name a plain policy")
    start.fit(env.spec)
    names = ("init_log_std", "min_log_std", "augment", "asymmetric_critic")
    policy = ActorCritic(env.spec, start.config.model_copy(update={name: getattr(config.student, name) for name in names}))
    policy.to(env.device)
    new = ["log_std_logit"]
    if policy.config.asymmetric_critic != start.config.asymmetric_critic:
        new += [name for name in policy.state_dict() if name.startswith("critic.")]
    policy.load_state_dict({**start.state_dict(), **{name: policy.state_dict()[name] for name in new}})
    last = cast("nn.Linear", policy.actor[-1])
    with torch.no_grad():  # what was a centimetre stays a centimetre
        last.weight.mul_(start.rescale[:, None])
        last.bias.mul_(start.rescale)
    return policy
