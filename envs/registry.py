"""Tasks by name: ``simulator/Task``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType

import torch

from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError, unknown_name
from envs.frames import FrameStack


@dataclass(frozen=True)
class TaskInfo:
    """One line of `rpd list`."""

    name: str
    robots: tuple[str, ...]
    cameras: tuple[str, ...]
    instruction: str
    paraphrases: tuple[str, ...] = field(default=())
    reward: str = "dense"
    """The reward mode where none is asked for."""
    together: int | None = None
    """Environments that are worth stepping together in an evaluation: more go no faster. None: as many as episodes."""


# A simulator is a module with `list_tasks() -> list[TaskInfo]` and `make(task, config, device, num_threads)`, and where it
# has more tasks than it lists, `find(task) -> TaskInfo`, and where somebody has measured, `memory(task, config, device,
# num_threads)` (see `memory`). Without cameras there, only building the task tells which it has.
SIMULATORS = {
    "tabletop": "envs.tabletop",
    "navigate": "envs.navigate",
    "maniskill": "envs.maniskill",
    "libero": "envs.libero",
}


def list_tasks(simulator: str | None = None) -> list[TaskInfo]:
    """Return every task of one simulator or of all that are installed."""
    if simulator is not None:
        return list(_module(simulator).list_tasks())
    tasks: list[TaskInfo] = []
    for name in SIMULATORS:
        try:
            tasks += _module(name).list_tasks()
        except ConfigError:  # an extra that is not installed has no tasks to list; `rpd doctor` says so
            continue
    return tasks


def task_info(task: str) -> TaskInfo:
    """Return one task's description.

    Raises:
        ConfigError: naming the nearest valid tasks.
    """
    simulator = task.split("/", 1)[0]
    if simulator not in SIMULATORS or "/" not in task:
        raise unknown_name("task", task, [t.name for t in list_tasks()])
    module = _module(simulator)
    tasks = {t.name: t for t in module.list_tasks()}
    if task in tasks:
        return tasks[task]
    if hasattr(module, "find"):
        return module.find(task)
    raise unknown_name("task", task, tasks)


def make(task: str, config: EnvConfig, device: torch.device | str = "cpu", num_threads: int | None = None) -> VectorEnv:
    """Build a vector environment.

    Args:
        task: e.g. ``"tabletop/PickCube"``.
        config: how to build it.
        device: where observations and rewards live.
        num_threads: CPU threads for the simulator (None: every core).

    Raises:
        ConfigError: an unknown task, robot, camera or option, or a missing extra.
    """
    info = task_info(task)
    if config.robot is not None and config.robot not in info.robots:
        raise unknown_name(f"robot for {task}", config.robot, info.robots)
    for camera in (*(config.cameras or ()), *config.teacher_cameras):
        if info.cameras and camera not in info.cameras:
            raise unknown_name(f"camera for {task}", camera, info.cameras)
    if config.teacher_image_size is not None and not config.teacher_cameras:
        raise ConfigError("env.teacher_image_size does nothing without env.teacher_cameras: name a camera")
    given = {"env.cameras": config.cameras, "env.image_size": config.image_size, "env.frames": config.frames > 1 or None}
    if config.obs == "state" and (useless := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"{useless[0]} does nothing with env.obs state: add --env.obs image")
    config = config.model_copy(update={"reward": config.reward or info.reward})
    env: VectorEnv = _module(task.split("/", 1)[0]).make(task, config, torch.device(device), num_threads)
    return env if config.frames == 1 else FrameStack(env, config.frames, config.teacher_cameras)


def memory(task: str, config: EnvConfig, device: torch.device | str = "cpu", num_threads: int | None = None) -> dict[str, int]:
    """Estimate the main memory of an environment's simulations: bytes by what takes them, empty where nobody has measured."""
    module = _module(task.split("/", 1)[0])
    return module.memory(task, config, torch.device(device), num_threads) if hasattr(module, "memory") else {}


def _module(simulator: str) -> ModuleType:
    return importlib.import_module(SIMULATORS[simulator])
