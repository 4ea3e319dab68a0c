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


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `envs.registry.memory`: 6 kB of physics each, and 20 bytes per pixel that is cast (512 environments, 64 x 64)."""
    from envs.tabletop.env import DEFAULT_CAMERAS, DEFAULT_IMAGE_SIZE

    size = config.image_size or DEFAULT_IMAGE_SIZE
    pixels = size**2 * len(config.cameras or DEFAULT_CAMERAS) if config.obs == "image" else 0
    pixels += (config.teacher_image_size or size) ** 2 * len(config.teacher_cameras)
    return {f"{config.num_envs} environments": config.num_envs * (6_000 + 20 * pixels)}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a tabletop environment; see `envs.registry.make`."""
    from envs.tabletop.env import TabletopEnv

    config.refuse(task, *SIMULATOR_OPTIONS)
    return TabletopEnv(task, config, device, num_threads)
