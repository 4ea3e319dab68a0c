"""Observations for the self-test of an exported policy, from its training environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.envs.vector_env import VectorEnv
from rpd.students.networks.normalizer import Normalizer

COUNT = 100
ENVS, STRIDE = 10, 4
SEED = 4_000_000

Act = Callable[[TensorDict, list[str]], Tensor]
"""Maps observations and instructions to actions [N, A]."""


@contextlib.contextmanager
def environment(task: str, config: EnvConfig) -> Iterator[VectorEnv | ConfigError]:
    """Environment for recording observations, or the reason why it cannot be built, e.g. a missing simulator."""
    try:
        together = min(ENVS, envs.task_info(task).max_useful_envs or ENVS)
        own = config.model_copy(update={"num_envs": together, "teacher_cameras": (), "teacher_image_size": None})
        env = envs.make(task, own, torch.device("cpu"))
    except ConfigError as error:
        yield error
        return
    with contextlib.closing(env):
        yield env


def record_observations(act: Act, env: VectorEnv) -> dict[str, Tensor]:
    """Observations [2 COUNT, ...] by key, `STRIDE` steps apart, while a policy acts."""
    keys, rows = list(env.spec.observations), list[dict[str, Tensor]]()
    obs = env.reset(SEED)
    while len(rows) * env.num_envs < 2 * COUNT:
        rows.append({key: obs[key] for key in keys})
        for _ in range(STRIDE):
            obs = env.step(act(obs, env.instructions)).obs
    return {key: torch.cat([row[key] for row in rows]) for key in keys}


def random_observations(spec: EnvSpec, columns: Tensor, seen: Normalizer | None) -> dict[str, Tensor]:
    """Random observations [2 COUNT, ...] by key: states with a normalizer's statistics in `columns`, and noise images."""
    generator = torch.Generator().manual_seed(SEED)
    obs = {}
    for key, what in spec.observations.items():
        shape = (2 * COUNT, *what.shape)
        if what.dtype == "uint8":
            obs[key] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            obs[key] = torch.randn(shape, generator=generator)
    if seen is not None:
        obs["state"][:, columns] *= seen.var.sqrt().float()
        obs["state"][:, columns] += seen.mean.float()
    return obs


def select_confident(margin: Tensor, enough: float) -> Tensor:
    """Select COUNT rows, preferring those whose margin [N] exceeds `enough`, so that rounding cannot flip a discrete action."""
    return (margin > enough).byte().argsort(descending=True, stable=True)[:COUNT]
