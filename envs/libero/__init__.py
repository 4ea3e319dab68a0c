"""LIBERO's five suites (simulator ``libero``): MuJoCo through robosuite, in processes forked from one compiled model.

LIBERO itself is imported when its tasks are listed, robosuite where a task is built.
"""

from __future__ import annotations

import torch

from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.libero.tasks import find, list_tasks, resolve

__all__ = ["find", "list_tasks", "make", "memory"]


TASK, WORKER, DRAWING_WORKER = 400_000_000, 18_000_000, 650_000_000
"""Bytes: a compiled task, once; a worker's own, without and with images (docs/libero.md, "Speed")."""


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `envs.registry.memory`."""
    from envs.workers.backend import worker_count

    tasks, workers = len(resolve(task)), worker_count(config, num_threads)
    own = DRAWING_WORKER if config.draws else WORKER
    return {f"{tasks} compiled tasks": tasks * TASK, f"{workers} workers": workers * own}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a LIBERO environment.

    An episode's seed says which initial state it begins from: 50 seeds in a row are the 50 episodes of an evaluation. Where
    the name means several tasks, seeds go through the tasks by turns, then to the next initial state.

    Args:
        task: see `envs.libero.tasks.resolve`.
        config: how to build it.
        device: where observations and rewards live.
        num_threads: worker processes at most (None: one per core).

    Raises:
        ConfigError: an option that LIBERO does not have, files or OpenGL missing.
    """
    chosen = resolve(task)
    if config.randomize:
        raise ConfigError("--env.randomize: LIBERO tasks have no domain randomisation; leave it empty")
    if config.sim_backend not in (None, "auto", "cpu"):
        raise ConfigError(f"--env.sim-backend {config.sim_backend}: LIBERO's physics runs on the CPU; leave it out")
    if config.control_mode not in (None, "OSC_POSE"):
        raise ConfigError(f"unknown control mode '{config.control_mode}' for {task}: LIBERO has OSC_POSE")
    if config.ignore_terminations or config.reconfigure:
        raise ConfigError("--env.ignore-terminations and --env.reconfigure are options of ManiSkill tasks; leave them out")
    environment = {"LP_NUM_THREADS": "1"}
    if config.draws:
        from envs import opengl

        environment |= {"PYOPENGL_PLATFORM": opengl.platform()}
    from envs.episodes import EpisodicEnv
    from envs.workers.backend import Workers, worker_count
    from envs.workers.start import Forks

    name = chosen[0].name if len(chosen) == 1 else task
    arguments = {"name": name, "config": config.model_dump(mode="json")}
    backend = Workers(
        config.num_envs,
        worker_count(config, num_threads),
        lambda memory: Forks("envs.libero.sim", arguments, environment, memory),
    )
    return EpisodicEnv(backend, device, lambda seed: chosen[seed % len(chosen)].language, exact_resume=True)
