"""Tasks by name: ``simulator/Task``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import BaseModel, ValidationError

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.rebuild import recorded
from rpd.envs.resources import available, human
from rpd.envs.user_files import unknown
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch

    from rpd.envs.wrappers.gymnasium import GymnasiumVectorEnv


@dataclass(frozen=True)
class TaskInfo:
    """One line of `rpd list`."""

    name: str
    robots: tuple[str, ...]
    cameras: tuple[str, ...]
    instruction: str
    paraphrases: tuple[str, ...] = field(default=())
    reward: str = "dense"
    """Default reward mode."""
    max_useful_envs: int | None = None
    """Largest useful number of parallel environments in an evaluation. None: the number of episodes."""


# A simulator is a module with `list_tasks() -> list[TaskInfo]` and `make(task, config, device, num_threads)`. Optional:
# `find(task) -> TaskInfo`, for tasks that are not listed, and `memory(task, config, device, num_threads)`, see `memory`.
# A `TaskInfo` without cameras means that they are known only after the task is built. `OPTIONS` lists the classes of
# `rpd.envs.simulator_options` that it reads; other options are refused.
SIMULATORS = {
    "tabletop": "rpd.envs.tabletop",
    "navigate": "rpd.envs.navigation",
    "maniskill": "rpd.envs.maniskill",
    "libero": "rpd.envs.libero",
    "gym": "rpd.envs.gym",
}


def list_tasks(simulator: str | None = None) -> list[TaskInfo]:
    """Return the tasks of one simulator, or of all installed simulators."""
    if simulator is not None:
        return list(_module(simulator).list_tasks())
    tasks: list[TaskInfo] = []
    for name in SIMULATORS:
        try:
            tasks += _module(name).list_tasks()
        except ConfigError:  # see `unlisted`
            continue
    return tasks


def unlisted() -> list[ConfigError]:
    """Return why simulators are missing from `list_tasks`: one error each, e.g. the extra that is not installed."""
    errors = []
    for name in SIMULATORS:
        try:
            _module(name).list_tasks()
        except ConfigError as error:
            errors.append(error)
    return errors


def task_info(task: str) -> TaskInfo:
    """Return the description of a task.

    Raises:
        ConfigError: unknown task; names the nearest valid tasks.
    """
    simulator = task.split("/", 1)[0]
    if simulator not in SIMULATORS or "/" not in task:
        raise unknown("task", task, [t.name for t in list_tasks()])
    module = _module(simulator)
    tasks = {t.name: t for t in module.list_tasks()}
    if task in tasks:
        return tasks[task]
    if hasattr(module, "find"):
        return module.find(task)
    raise unknown("task", task, tasks)


def simulator_options(task: str) -> tuple[type[BaseModel], ...]:
    """Option classes of `rpd.envs.simulator_options` that a task's simulator reads.

    Raises:
        ConfigError: the simulator is not installed.
    """
    options: tuple[type[BaseModel], ...] = getattr(_module(task.split("/", 1)[0]), "OPTIONS", ())
    return options


@overload
def make(
    task: str,
    config: EnvConfig | None = ...,
    device: torch.device | str = ...,
    num_threads: int | None = ...,
    as_gymnasium: Literal[False] = ...,
    **options: Any,
) -> VectorEnv: ...
@overload
def make(
    task: str,
    config: EnvConfig | None = ...,
    device: torch.device | str = ...,
    num_threads: int | None = ...,
    *,
    as_gymnasium: Literal[True],
    **options: Any,
) -> GymnasiumVectorEnv: ...
def make(
    task: str,
    config: EnvConfig | None = None,
    device: torch.device | str = "cpu",
    num_threads: int | None = None,
    as_gymnasium: bool = False,
    **options: Any,
) -> VectorEnv | GymnasiumVectorEnv:
    """Build a vector environment of N environments, stepped in parallel.

    Simulators with worker processes (ManiSkill on CPU, LIBERO) import the caller's script in the workers: call this function
    below ``if __name__ == "__main__":``.

    Args:
        task: e.g. ``"tabletop/PickCube"``.
        config: options of the environment; None: the defaults of `EnvConfig`.
        device: device of observations and rewards.
        num_threads: CPU threads of the simulator (None: every core).
        as_gymnasium: return a `rpd.envs.wrappers.gymnasium.GymnasiumVectorEnv`, with numpy arrays.
        options: fields of `EnvConfig` that override `config`, e.g. ``num_envs=4, robot="xarm6"``.

    Returns:
        The environment: ``reset(seed)`` returns observations [N, ...] by name, ``step(action)`` takes actions [N, A] in
        [-1, 1]. ``spec`` describes both, with names and units. Close it after use.

    Raises:
        ConfigError: unknown task, robot, camera or option, or a missing extra.
    """
    import torch

    from rpd.envs.wrappers.frame_stack import FrameStack

    config = _config(config or EnvConfig(), options)
    info = task_info(task)
    if config.robot is not None and config.robot not in info.robots:
        raise unknown(f"robot for {task}", config.robot, info.robots)
    for camera in (*(config.cameras or ()), *config.teacher_cameras):
        if info.cameras and camera not in info.cameras:
            raise unknown(f"camera for {task}", camera, info.cameras)
    if config.teacher_image_size is not None and not config.teacher_cameras:
        raise ConfigError("env.teacher_image_size does nothing without env.teacher_cameras: name a camera")
    module = _module(task.split("/", 1)[0])
    config.check_simulator(task, simulator_options(task))
    given = {
        "env.cameras": config.cameras,
        "env.image_size": config.image_size,
        "env.frame_stack": config.frame_stack > 1 or None,
    }
    if config.obs_mode == "state" and (useless := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"{useless[0]} does nothing with env.obs_mode state: add --env.obs-mode rgb")
    config = config.model_copy(update={"reward": config.reward or info.reward})
    _check_memory(task, config, torch.device(device), num_threads)
    env: VectorEnv = module.make(task, config, torch.device(device), num_threads)
    env.spec = recorded(env.spec, config)
    env = env if config.frame_stack == 1 else FrameStack(env, config.frame_stack, config.teacher_cameras)
    if as_gymnasium:
        from rpd.envs.wrappers.gymnasium import GymnasiumVectorEnv

        return GymnasiumVectorEnv(env, render_mode="rgb_array")
    return env


def _config(config: EnvConfig, options: dict[str, Any]) -> EnvConfig:
    """Override options of a configuration.

    Raises:
        ConfigError: an unknown option or an invalid value; one line.
    """
    for name in options:
        if name not in EnvConfig.model_fields:
            raise unknown_name("option of an environment", name, EnvConfig.model_fields)
    try:
        return EnvConfig.model_validate({**config.model_dump(), **options}) if options else config
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"env.{first['loc'][0]} {first['input']!r}: {first['msg']}") from None


def memory(task: str, config: EnvConfig, device: torch.device | str = "cpu", num_threads: int | None = None) -> dict[str, int]:
    """Estimate the main memory of an environment's simulations: bytes by component, empty if not measured."""
    import torch

    module = _module(task.split("/", 1)[0])
    parts = dict(module.memory(task, config, torch.device(device), num_threads)) if hasattr(module, "memory") else {}
    if config.frame_stack > 1 and config.image_size is not None:  # single frames, and stacked
        images = len(config.cameras or ("one",)) * 3 * config.image_size**2
        parts[f"{config.frame_stack} frames of each camera"] = 2 * config.num_envs * config.frame_stack * images
    return parts


def _check_memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> None:
    """Raise if the environments do not fit into memory, before one is built.

    Raises:
        ConfigError: states required and free memory.
    """
    import torch

    parts, free = memory(task, config, device, num_threads), available(torch.device("cpu"))
    needed = sum(parts.values())
    if free is not None and needed > free:
        largest = max(parts, key=lambda part: parts[part])
        raise ConfigError(
            f"{config.num_envs:,} environments of {task} need about {human(needed)}, and {human(free)} are free; most of it is "
            f"for {largest}: lower num_envs, num_workers, image_size or frames"
        )


def _module(simulator: str) -> ModuleType:
    return importlib.import_module(SIMULATORS[simulator])
