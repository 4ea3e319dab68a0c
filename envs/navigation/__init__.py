"""Built-in navigation: mobile bases that drive to a goal pose among obstacles. Plane geometry in numpy, no downloads."""

from __future__ import annotations

import torch

from envs.base import SIMULATOR_OPTIONS, EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.registry import TaskInfo


def list_tasks() -> list[TaskInfo]:
    """Every task of this simulator."""
    from envs.navigate.bases import BASES
    from envs.navigate.env import INSTRUCTION
    from envs.navigate.levels import LEVELS

    return [TaskInfo(f"navigate/{level}", tuple(BASES), (), INSTRUCTION) for level in LEVELS]


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a navigation environment; see `envs.registry.make`. It computes in one thread.

    Raises:
        ConfigError: an option that these tasks do not have.
    """
    from envs.navigate.env import NavigateEnv

    config.refuse(task, *SIMULATOR_OPTIONS)
    if config.randomize:
        raise ConfigError(f"env.randomize does not apply to {task}: every episode has an arena of its own; leave it empty")
    if config.draws:
        raise ConfigError(f"{task} has no cameras, a range finder sees: use --env.obs state")
    return NavigateEnv(task, config, device)
