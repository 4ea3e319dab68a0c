"""Memory estimates, available memory, and the check that a run fits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError
from rpd.envs.resources import available, human


@dataclass(frozen=True)
class Item:
    """A memory requirement of a run.

    Attributes:
        part: part of the run: rollout, student, teacher, simulator, …
        what: description.
        bytes: size.
        device: device whose memory it occupies.
        certain: whether the size is exact; otherwise it is an estimate.
    """

    part: str
    what: str
    bytes: int
    device: torch.device
    certain: bool = True


def row_bytes(row: TensorDict) -> dict[str, int]:
    """Bytes per row of a batch [N], by key, e.g. ``obs.image.front``."""
    return {str(key): value.numel() * value.element_size() // len(value) for key, value in row.flatten_keys(".").items()}


def rollout(row: Mapping[str, int], num_steps: int, num_envs: int, device: torch.device) -> list[Item]:
    """Memory of a rollout batch (`rpd.rollout.collector.Collector`) per key; `row` as returned by `row_bytes`."""
    return [Item("rollout", key, num_steps * num_envs * size, device) for key, size in row.items()]


def resident() -> int:
    """Resident memory of this process, bytes; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def check(items: Iterable[Item], what: str, remedy: str, held: int = 0) -> None:
    """Raise an error if the items do not fit into memory.

    Args:
        items: all memory requirements, including memory that is already allocated.
        what: description of the items for the message, e.g. ``"the rollout of 25 steps from 128 environments"``.
        remedy: how to reduce the requirement, for the message.
        held: bytes of main memory among the items that this process has already allocated.

    Raises:
        ConfigError: one line that names the requirement, the available memory, and the largest item.
    """
    needed: dict[torch.device, list[Item]] = {}
    for item in items:
        needed.setdefault(item.device, []).append(item)
    for device, there in needed.items():
        total, free = sum(item.bytes for item in there), available(device)
        free = free + held if free is not None and device.type == "cpu" else free
        if free is not None and total > free:
            largest = max(there, key=lambda item: item.bytes)
            raise ConfigError(
                f"{what} needs {human(total)} on {device}, which has {human(free)}; most of it is {largest.part} "
                f"{largest.what} ({human(largest.bytes)}): {remedy}"
            )
