"""Gymnasium environments by name: ``gym/Pendulum-v1``, ``gym/my_module:MyEnv-v0``, ``gym/file.py:make_env``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.registry import TaskInfo

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec as Registration

PREFIX = "gym/"
ROBOTS = ("gymnasium",)

_OWN = (
    "Pendulum-v1", "MountainCarContinuous-v0", "Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5",
)  # fmt: skip
"""Environments of Gymnasium itself with continuous actions and without further packages but mujoco."""


@dataclass(frozen=True)
class Package:
    """A package that registers environments when it is imported.

    Attributes:
        names: pattern of the names that it registers.
        module: its module.
        project: its name on PyPI.
        listed: some of its environments, for `rpd list`.
    """

    names: str
    module: str
    project: str
    listed: tuple[str, ...] = ()


_FETCH = tuple(f"Fetch{task}{dense}-v4" for task in ("Reach", "Push", "Slide", "PickAndPlace") for dense in ("", "Dense"))
PACKAGES = (
    Package(r"(Fetch|Hand|Adroit|PointMaze|AntMaze|FrankaKitchen)", "gymnasium_robotics", "gymnasium-robotics", _FETCH),
    Package(r"Meta-World/", "metaworld", "metaworld"),
    Package(r"gym_pusht/", "gym_pusht", "gym-pusht", ("gym_pusht/PushT-v0",)),
    Package(r"gym_aloha/", "gym_aloha", "gym-aloha", ("gym_aloha/AlohaInsertion-v0", "gym_aloha/AlohaTransferCube-v0")),
)
"""Packages whose environments are found by their names alone; any other is named: ``gym/package:Name-v0``."""


@dataclass(frozen=True)
class Source:
    """Origin of a task's environments.

    Attributes:
        task: the name.
        registration: entry of Gymnasium's registry; None: `build`.
        build: function or class of a module that makes the environment.
        vector: whether it makes N environments at once.
    """

    task: str
    registration: Registration | None
    build: Callable[..., Any] | None
    vector: bool


def list_tasks() -> list[TaskInfo]:
    """List environments of Gymnasium and of well-known packages that are installed, without importing them."""
    installed = [package for package in PACKAGES if importlib.util.find_spec(package.module) is not None]
    return [_info(PREFIX + name) for name in (*_OWN, *(name for package in installed for name in package.listed))]


def find(task: str) -> TaskInfo:
    """Return any environment, see `resolve`."""
    resolve(task)
    return _info(task)


def resolve(task: str) -> Source:
    """Find an environment in Gymnasium's registry, or a function or class in a module.

    Args:
        task: ``gym/NAME``, or ``gym/MODULE:NAME``, where MODULE is a module or a Python file that registers NAME or has it as a
            function or class. The module is imported only if the user typed the name, see `rpd.envs.user_files`.

    Raises:
        ConfigError: the environment does not exist, or its package is not installed.
    """
    registry = importlib.import_module("gymnasium").registry
    module, _, name = task.removeprefix(PREFIX).rpartition(":")
    if module:
        found = _module(module)
        if name not in registry:
            return _function(task, module, name, found)
    elif name not in registry:
        _import_package(task, name)
    if name not in registry:
        raise user_files.unknown("task", task, [PREFIX + known for known in registry])
    entry = registry[name]
    return Source(task, entry, None, vector=entry.entry_point is None)


def words(task: str) -> str:
    """Language instruction of an environment that has none: its name in words, e.g. ``fetch pick and place``."""
    name = re.sub(r"-v\d+$", "", re.split("[:/]", task)[-1])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ").lower()


def _module(name: str) -> Any:
    """The imported module or file of a task's name."""
    stem = Path(name).stem if name.endswith(".py") else name
    if name.endswith(".py") and stem not in sys.modules:
        raise ConfigError(f"{name} is imported only where you name it: add --import {name}")
    user_files.require_module(stem)
    return sys.modules[stem]


def _function(task: str, module: str, name: str, found: Any) -> Source:
    """A function or class of a module; it makes a vector environment if it has the parameter num_envs."""
    build = getattr(found, name, None)
    if not callable(build):
        own = [
            key for key, value in vars(found).items() if callable(value) and getattr(value, "__module__", "") == found.__name__
        ]
        raise user_files.unknown(f"environment of {module}", name, own)
    return Source(task, None, build, vector="num_envs" in inspect.signature(build).parameters)


def _import_package(task: str, name: str) -> None:
    """Import the well-known package whose environment this is, if any."""
    for package in PACKAGES:
        if re.match(package.names, name):
            if importlib.util.find_spec(package.module) is None:
                raise ConfigError(f"{task} needs {package.project}, which is not installed: pip install {package.project}")
            importlib.import_module(package.module)


def _info(task: str) -> TaskInfo:
    return TaskInfo(name=task, robots=ROBOTS, cameras=(), instruction=words(task))
