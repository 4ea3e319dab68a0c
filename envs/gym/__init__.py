"""Any Gymnasium environment as a task (simulator ``gym``): a registered name, or a function or class of a user's file.

Single environments run in worker processes, see `rpd.envs.backends.subprocess`; environments that are vectors already run in
this process. Packages of environments are imported when a task of theirs is requested.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.gym.names import find, list_tasks, resolve, words
from rpd.envs.simulator_options import GymnasiumOptions, WorkerOptions
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch

__all__ = ["OPTIONS", "find", "list_tasks", "make"]

OPTIONS = (GymnasiumOptions, WorkerOptions)
_remark = functools.cache(logging.getLogger(__name__).info)  # once, not once per environment of a run


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a Gymnasium environment N times.

    Args:
        task: see `rpd.envs.gym.names.resolve`.
        config: options of the environment.
        device: device of observations and rewards.
        num_threads: maximum number of worker processes (None: one per core).

    Raises:
        ConfigError: spaces, autoreset or success that cannot be used; names both sides and the option that settles it.
    """
    from rpd.envs.backends.episodic import EpisodicEnv
    from rpd.envs.backends.subprocess.backend import Workers, worker_count
    from rpd.envs.backends.subprocess.launch import Interpreters

    source, text = resolve(task), config.instruction or words(task)
    if source.vector:
        if config.num_workers is not None:
            raise ConfigError(f"env.num_workers: {task} is a vector environment, without workers of ours: leave it out")
        from rpd.envs.gym.vector import VectorBackend

        vector = VectorBackend(source, config)
        _say(vector.remarks)
        return EpisodicEnv(vector, device, lambda seed: text, cuts=vector.resets_any)
    arguments = {"task": task, "config": config.model_dump(mode="json")}
    backend = Workers(
        config.num_envs,
        worker_count(config, num_threads),
        lambda memory: Interpreters("rpd.envs.gym.sim", arguments, _environment(), memory),
    )
    _say(backend.remarks)
    return EpisodicEnv(backend, device, lambda seed: text)


def _say(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        _remark(remark)


def _environment() -> dict[str, str]:
    """Environment variables of workers: MuJoCo renders without a display, where the machine can."""
    from rpd.envs.rendering import opengl

    try:
        return {"MUJOCO_GL": opengl.platform()}
    except ConfigError:  # most environments need no OpenGL; MuJoCo's error names the fix when one does
        return {}
