"""What an exported policy is tested with: observations of the environment that it was trained in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.actor_critic import ActorCritic

COUNT = 100
ENVS, STRIDE = 10, 4
SEED = 4_000_000
MARGIN = 1e-4
"""A gripper command closer than this to its turning point, in log-odds, is no test: rounding may turn it."""


@dataclass(frozen=True)
class Examples:
    """Observations and what the trained policy does."""

    obs: dict[str, Tensor]
    """[COUNT, ...] by key, as the environment shows them."""
    action: Tensor
    """[COUNT, A]."""
    origin: str
    """Where the observations come from."""

    def arrays(self, spec: EnvSpec, whole: EnvSpec) -> dict[str, np.ndarray]:
        """The observations, with those entries alone that the state of `spec` has of the `whole`."""
        index = [whole.state_names.index(name) for name in spec.state_names]
        return {key: (rows[:, index] if key == "state" else rows).numpy() for key, rows in self.obs.items()}


def examples(policy: ActorCritic, spec: EnvSpec, env: VectorEnv | ConfigError) -> Examples:
    """Record observations while the policy acts; without its environment, draw some.

    Args:
        policy: who acts.
        spec: the environment that it was made to fit.
        env: that, or why there is none.
    """
    if isinstance(env, ConfigError):
        return _answered(policy, _drawn(policy, spec), f"drawn at random ({env})")
    return _answered(policy, _recorded(policy, env), f"recorded in {spec.task}")


@contextlib.contextmanager
def environment(task: str, config: EnvConfig) -> Iterator[VectorEnv | ConfigError]:
    """Where observations are recorded, or why that cannot be built: a simulator that is not installed, say."""
    try:
        together = min(ENVS, envs.task_info(task).together or ENVS)
        own = config.model_copy(update={"num_envs": together, "teacher_cameras": (), "teacher_image_size": None})
        env = envs.make(task, own, torch.device("cpu"))
    except ConfigError as error:
        yield error
        return
    with contextlib.closing(env):
        yield env


def _recorded(policy: ActorCritic, env: VectorEnv) -> dict[str, Tensor]:
    """Twice as many as are needed, some steps apart."""
    keys, rows = list(env.spec.observations), list[dict[str, Tensor]]()
    obs = env.reset(SEED)
    while len(rows) * env.num_envs < 2 * COUNT:
        rows.append({key: obs[key] for key in keys})
        for _ in range(STRIDE):
            obs = env.step(policy.act(obs)).obs
    return {key: torch.cat([row[key] for row in rows]) for key in keys}


def _drawn(policy: ActorCritic, whole: EnvSpec) -> dict[str, Tensor]:
    """States as the normaliser has seen them, and noise for images."""
    generator = torch.Generator().manual_seed(SEED)
    obs = {}
    for key, spec in whole.observations.items():
        shape = (2 * COUNT, *spec.shape)
        if spec.dtype == "uint8":
            obs[key] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            obs[key] = torch.randn(shape, generator=generator)
    if (seen := policy.state_normalizer) is not None:
        obs["state"][:, policy.columns] *= seen.var.sqrt().float()
        obs["state"][:, policy.columns] += seen.mean.float()
    return obs


@torch.no_grad()
def _answered(policy: ActorCritic, obs: dict[str, Tensor], origin: str) -> Examples:
    answer = policy.distribution(obs)
    margin = answer.raw.abs().where(answer.discrete, torch.inf).amin(-1)
    chosen = (margin > MARGIN).byte().argsort(descending=True, stable=True)[:COUNT]
    obs = {key: rows[chosen] for key, rows in obs.items()}
    return Examples(obs, policy.act(obs), origin)
