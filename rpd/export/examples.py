"""What an exported policy is tested with: observations of the environment that it was trained in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from tensordict import TensorDict
from torch import Tensor

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.normalizer import Normalizer

COUNT = 100
ENVS, STRIDE = 10, 4
SEED = 4_000_000

Act = Callable[[TensorDict, list[str]], Tensor]
"""From observations and instructions to actions [N, A]."""


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


def recorded(act: Act, env: VectorEnv) -> dict[str, Tensor]:
    """Observations [2 COUNT, ...] by key, some steps apart, while a policy acts."""
    keys, rows = list(env.spec.observations), list[dict[str, Tensor]]()
    obs = env.reset(SEED)
    while len(rows) * env.num_envs < 2 * COUNT:
        rows.append({key: obs[key] for key in keys})
        for _ in range(STRIDE):
            obs = env.step(act(obs, env.instructions)).obs
    return {key: torch.cat([row[key] for row in rows]) for key in keys}


def drawn(spec: EnvSpec, columns: Tensor, seen: Normalizer | None) -> dict[str, Tensor]:
    """Observations [2 COUNT, ...] by key: states like those that a normaliser has seen in `columns`, and noise for images."""
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


def decided(margin: Tensor, enough: float) -> Tensor:
    """Choose COUNT rows, the first that have a margin [N] by which rounding cannot turn a discrete action."""
    return (margin > enough).byte().argsort(descending=True, stable=True)[:COUNT]
