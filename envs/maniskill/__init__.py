"""ManiSkill3 tasks (simulator ``maniskill``): in worker processes on the CPU, or entirely on a GPU.

ManiSkill is imported when an environment is built, or when a task outside the built-in list is requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.maniskill.tasks import PREFIX, find, instruction, list_tasks
from rpd.envs.simulator_options import ManiSkillOptions, WorkerOptions
from rpd.envs.vector_env import VectorEnv

if TYPE_CHECKING:
    import torch

__all__ = ["OPTIONS", "find", "list_tasks", "make", "memory"]

OPTIONS = (ManiSkillOptions, WorkerOptions)
WORKER, DRAWING_WORKER = 430_000_000, 680_000_000
"""Memory of a worker in bytes: PushCube-v1 from state and from images of 128 pixels, with Mesa's lavapipe, a CPU renderer.
Each environment adds `ENVIRONMENT`, or twice that with images."""
ENVIRONMENT = 1_000_000


def memory(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> dict[str, int]:
    """See `rpd.envs.registry.memory`; not measured on a GPU."""
    from rpd.envs.backends.subprocess.backend import worker_count

    if _on_gpu(config, device):
        return {}
    workers, own = worker_count(config, num_threads), DRAWING_WORKER if config.draws else WORKER
    return {f"{workers} workers": workers * own, f"{config.num_envs} environments": config.num_envs * ENVIRONMENT}


def make(task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> VectorEnv:
    """Build a ManiSkill environment.

    Args:
        task: e.g. ``"maniskill/PushCube-v1"``.
        config: options of the environment.
        device: device of observations and rewards.
        num_threads: on the CPU, maximum number of worker processes (None: one per core).

    Raises:
        ConfigError: an option that ManiSkill or the task does not have, or no usable Vulkan driver.
    """
    find(task)
    import torch

    from rpd.envs.backends.episodic import EpisodicEnv
    from rpd.envs.maniskill.scene import to_scene

    name, to_the_end = task.removeprefix(PREFIX), bool(config.ignore_terminations)

    def words(seed: int) -> str:
        return instruction(name)

    if _on_gpu(config, device):
        if device.type != "cuda" or not torch.cuda.is_available():
            raise ConfigError(f"--env.sim-backend gpu needs a CUDA device, and this run's is '{device}': use cpu")
        if config.num_workers is not None:
            raise ConfigError("--env.num-workers: with physics on the GPU there are no worker processes; leave it out")
        from rpd.envs.maniskill.gpu import DeviceSim

        return EpisodicEnv(DeviceSim(name, config, device), device, words, to_scene, ignore_terminations=to_the_end)
    from rpd.envs.backends.subprocess.backend import Workers, worker_count
    from rpd.envs.backends.subprocess.launch import Interpreters
    from rpd.envs.rendering.vulkan import render_settings

    render_backend, environment = render_settings()
    arguments = {"task": name, "config": config.model_dump(mode="json"), "render_backend": render_backend}
    backend = Workers(
        config.num_envs,
        worker_count(config, num_threads),
        lambda memory: Interpreters("rpd.envs.maniskill.worker", arguments, environment, memory),
    )
    return EpisodicEnv(backend, device, words, to_scene, ignore_terminations=to_the_end)


def _on_gpu(config: EnvConfig, device: torch.device) -> bool:
    """Whether the physics runs on the GPU."""
    return device.type == "cuda" if config.sim_backend in (None, "auto") else config.sim_backend == "gpu"
