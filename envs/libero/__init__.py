"""LIBERO's five suites (simulator ``libero``): MuJoCo through robosuite, in processes forked from one compiled model.

LIBERO is imported when its tasks are listed, robosuite when a task is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpd.envs.config import EnvConfig
from rpd.envs.libero.tasks import find, list_tasks, resolve
from rpd.envs.simulator_options import LiberoOptions, WorkerOptions
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch

__all__ = ["OPTIONS", "find", "list_tasks", "make", "memory"]

OPTIONS = (LiberoOptions, WorkerOptions)

TASK, WORKER, DRAWING_WORKER = 400_000_000, 18_000_000, 650_000_000
"""Memory in bytes: a compiled task; a worker without and with images (docs/libero.md, "Speed")."""


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `rpd.envs.registry.memory`."""
    from rpd.envs.backends.subprocess.backend import worker_count

    tasks, workers = len(resolve(task)), worker_count(config, num_threads)
    own = DRAWING_WORKER if config.draws else WORKER
    return {f"{tasks} compiled tasks": tasks * TASK, f"{workers} workers": workers * own}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a LIBERO environment.

    The seed of an episode selects its initial state: 50 consecutive seeds are the 50 episodes of an evaluation. If the name
    selects several tasks, consecutive seeds cycle through the tasks, then advance the initial state.

    Args:
        task: see `rpd.envs.libero.tasks.resolve`.
        config: options of the environment.
        device: device of observations and rewards.
        num_threads: maximum number of worker processes (None: one per core).

    Raises:
        ConfigError: an option that LIBERO does not have, or missing files or OpenGL.
    """
    chosen = resolve(task)
    environment = {"LP_NUM_THREADS": "1"}
    if config.draws:
        from rpd.envs.rendering import opengl

        environment |= {"PYOPENGL_PLATFORM": opengl.platform()}
    from rpd.envs.backends.episodic import EpisodicEnv
    from rpd.envs.backends.subprocess.backend import Workers, worker_count
    from rpd.envs.backends.subprocess.launch import Forks

    name = chosen[0].name if len(chosen) == 1 else task
    arguments = {"name": name, "config": config.model_dump(mode="json")}
    backend = Workers(
        config.num_envs,
        worker_count(config, num_threads),
        lambda memory: Forks("rpd.envs.libero.sim", arguments, environment, memory),
    )
    return EpisodicEnv(backend, device, lambda seed: chosen[seed % len(chosen)].language)
