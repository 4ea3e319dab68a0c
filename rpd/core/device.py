"""Choose the torch device, and prepare a process for a run."""

from __future__ import annotations

import numpy as np
import torch

from rpd.envs.errors import ConfigError


def resolve_device(name: str) -> str:
    """Resolve ``auto`` to cuda if there is one, else cpu.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}' does not exist: torch sees {torch.cuda.device_count()} cuda devices; use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: use auto, cpu, cuda or cuda:<index>")
    return name


def prepare_process(seed: int, num_threads: int | None) -> None:
    """Seed the global random generators of torch and numpy, and set the number of torch's CPU threads.

    Args:
        seed: seed of a run.
        num_threads: number of threads; None: one, because a student's tensors are small.
    """
    torch.set_num_threads(num_threads or 1)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # for simulators that use the global generator
