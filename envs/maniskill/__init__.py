"""ManiSkill3 tasks (simulator ``maniskill``): on CPU cores in worker processes, or on a GPU with everything on it.

ManiSkill itself is imported when an environment is built, or when a task is asked for that is not well known.
"""

from __future__ import annotations

import torch

from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from envs.maniskill.tasks import PREFIX, find, instruction, list_tasks

__all__ = ["find", "list_tasks", "make", "memory"]

WORKER, DRAWING_WORKER = 430_000_000, 680_000_000
"""Bytes of a worker's own: PushCube-v1 from state and from images of 128 pixels, with Mesa's lavapipe, which draws on the CPU.
Environments add a megabyte or two each."""


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `envs.registry.memory`; on a GPU nobody has measured."""
    from envs.workers.backend import worker_count

    if _on_gpu(config, device):
        return {}
    workers, own = worker_count(config, num_threads), DRAWING_WORKER if config.draws else WORKER
    return {f"{workers} workers": workers * own}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a ManiSkill environment.

    Args:
        task: e.g. ``"maniskill/PushCube-v1"``.
        config: how to build it. `randomize` is for the built-in simulator only.
        device: where observations and rewards live.
        num_threads: on the CPU, worker processes at most (None: one per core).

    Raises:
        ConfigError: an option that ManiSkill or this task does not have, or no Vulkan driver that works.
    """
    find(task)
    if config.randomize:
        raise ConfigError("--env.randomize: ManiSkill tasks have no domain randomisation here; leave it empty")
    if config.rendering is not None:
        raise ConfigError("--env.rendering is an option of LIBERO tasks; leave it out")
    from envs.episodes import EpisodicEnv
    from envs.maniskill.scene import to_scene

    name, to_the_end = task.removeprefix(PREFIX), bool(config.ignore_terminations)

    def words(seed: int) -> str:
        return instruction(name)

    if _on_gpu(config, device):
        if device.type != "cuda" or not torch.cuda.is_available():
            raise ConfigError(f"--env.sim-backend gpu needs a CUDA device, and this run's is '{device}': use cpu")
        if config.num_workers is not None:
            raise ConfigError("--env.num-workers: with physics on the GPU there are no worker processes; leave it out")
        from envs.maniskill.gpu import DeviceSim

        return EpisodicEnv(DeviceSim(name, config, device), device, words, to_scene, ignore_terminations=to_the_end)
    from envs.vulkan import render_settings
    from envs.workers.backend import Workers, worker_count
    from envs.workers.start import Interpreters

    render_backend, environment = render_settings()
    arguments = {"task": name, "config": config.model_dump(mode="json"), "render_backend": render_backend}
    backend = Workers(
        config.num_envs,
        worker_count(config, num_threads),
        lambda memory: Interpreters("envs.maniskill.worker", arguments, environment, memory),
    )
    return EpisodicEnv(backend, device, words, to_scene, ignore_terminations=to_the_end)


def _on_gpu(config: EnvConfig, device: torch.device) -> bool:
    """Whether physics runs on the GPU."""
    return device.type == "cuda" if config.sim_backend in (None, "auto") else config.sim_backend == "gpu"
