"""Built-in tabletop manipulation: MuJoCo stepped in batch, cameras by ray casts, no OpenGL and no downloads."""

from __future__ import annotations

import torch

from envs.base import SIMULATOR_OPTIONS, EnvConfig, VectorEnv
from envs.registry import TaskInfo

CAMERAS = ("front", "side", "wrist")


def list_tasks() -> list[TaskInfo]:
    """Every task of this simulator."""
    from envs.tabletop.robots import ROBOTS
    from envs.tabletop.tasks import TASKS

    tasks = []
    for task in TASKS.values():
        first, *others = (phrase.format(object="red", target="blue") for phrase in task.phrases)
        tasks.append(TaskInfo(f"tabletop/{task.name}", tuple(ROBOTS), CAMERAS, first, tuple(others)))
    return tasks


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a tabletop environment; see `envs.registry.make`."""
    from envs.tabletop.env import TabletopEnv

    config.refuse(task, *SIMULATOR_OPTIONS)
    return TabletopEnv(task, config, device, num_threads)
