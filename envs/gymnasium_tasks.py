"""Registration of the built-in tasks with Gymnasium, as ``rpd/NAME-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.wrappers.gymnasium import GymnasiumEnv, GymnasiumVectorEnv

BUILT_IN = ("tabletop", "navigate")
"""Simulators whose tasks are registered."""


def register_envs() -> None:
    """Register the built-in tasks with Gymnasium: ``tabletop/PickCube`` as ``rpd/PickCube-v0``.

    ``gymnasium.make_vec("rpd/PickCube-v0", num_envs=128)`` is `GymnasiumVectorEnv`, ``gymnasium.make`` is `GymnasiumEnv`; both
    take fields of `rpd.EnvConfig` as keywords. May be called twice.
    """
    for task in (task for simulator in BUILT_IN for task in registry.list_tasks(simulator)):
        name = f"rpd/{task.name.split('/')[1]}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="rpd.envs.gymnasium_tasks:make_single",
                vector_entry_point="rpd.envs.gymnasium_tasks:make_vector",
                kwargs={"task": task.name},
            )


def make_vector(task: str, num_envs: int, render_mode: str | None = None, **options: Any) -> GymnasiumVectorEnv:
    """Build a task as a vector environment; options as in `rpd.envs.registry.make`."""
    return GymnasiumVectorEnv(registry.make(task, EnvConfig(num_envs=num_envs), **options), render_mode)


def make_single(task: str, render_mode: str | None = None, **options: Any) -> GymnasiumEnv:
    """Build a task as a single environment; options as in `rpd.envs.registry.make`."""
    return GymnasiumEnv(registry.make(task, EnvConfig(num_envs=1), **options), render_mode)
