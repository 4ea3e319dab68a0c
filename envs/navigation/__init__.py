"""Built-in navigation: mobile bases drive to a goal pose among obstacles. Planar geometry in numpy, no downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import TaskInfo
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch


def list_tasks() -> list[TaskInfo]:
    """List the tasks of this simulator."""
    from rpd.envs.navigation.arenas import INSTRUCTION, LEVELS
    from rpd.envs.navigation.bases import BASES

    return [TaskInfo(f"navigate/{level}", tuple(BASES), (), INSTRUCTION) for level in LEVELS]


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `rpd.envs.registry.memory`: 4 kB per environment (measured with 20,000 environments of Rooms)."""
    return {f"{config.num_envs} environments": config.num_envs * 4_000}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a navigation environment; see `rpd.envs.registry.make`. Single-threaded.

    Raises:
        ConfigError: an option that these tasks do not have.
    """
    from rpd.envs.navigation.env import NavigateEnv

    if config.draws:
        raise ConfigError(f"{task} has no cameras, only a range finder: use --env.obs-mode state")
    return NavigateEnv(task, config, device)
