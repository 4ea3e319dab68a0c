"""Built-in tabletop manipulation: batched MuJoCo, ray-cast cameras, no OpenGL and no downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpd.envs.config import EnvConfig
from rpd.envs.registry import TaskInfo
from rpd.envs.simulator_options import TabletopOptions
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch

CAMERAS = ("front", "side", "wrist")
OPTIONS = (TabletopOptions,)


def list_tasks() -> list[TaskInfo]:
    """List the tasks of this simulator."""
    from rpd.envs.robots import ROBOTS
    from rpd.envs.tabletop.tasks import TASKS

    tasks = []
    for task in TASKS.values():
        first, *others = (phrase.format(object="red", target="blue") for phrase in task.phrases)
        tasks.append(TaskInfo(f"tabletop/{task.name}", tuple(ROBOTS), CAMERAS, first, tuple(others)))
    return tasks


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `rpd.envs.registry.memory`: per environment 6 kB of physics and 20 bytes per pixel (512 environments, 64 x 64)."""
    from rpd.envs.tabletop.env import DEFAULT_CAMERAS, DEFAULT_IMAGE_SIZE

    size = config.image_size or DEFAULT_IMAGE_SIZE
    pixels = size**2 * len(config.cameras or DEFAULT_CAMERAS) if config.obs_mode == "rgb" else 0
    pixels += (config.teacher_image_size or size) ** 2 * len(config.teacher_cameras)
    return {f"{config.num_envs} environments": config.num_envs * (6_000 + 20 * pixels)}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a tabletop environment; see `rpd.envs.registry.make`."""
    from rpd.envs.tabletop.env import TabletopEnv

    return TabletopEnv(task, config, device, num_threads)
