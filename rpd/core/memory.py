"""How much memory things take, how much there is, and refusing what cannot fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict

from envs.errors import ConfigError

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Item:
    """Something that a run keeps in memory.

    Attributes:
        part: of the run: rollout, student, teacher, simulator, …
        what: the thing itself.
        bytes: its size.
        device: where it lies.
        certain: whether it is counted; otherwise it is estimated.
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
    """The batch that `rpd.rollout.Collector` fills, per key; `row` as of `row_bytes`."""
    return [Item("rollout", key, num_steps * num_envs * size, device) for key, size in row.items()]


def available(device: torch.device) -> int | None:
    """Free bytes on a device, for the CPU what this process may still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min((free for free in (_machine(), _cgroup()) if free is not None), default=None)


def resident() -> int:
    """Bytes of main memory that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def check(items: Iterable[Item], what: str, remedy: str, held: int = 0) -> None:
    """Refuse what cannot fit.

    Args:
        items: everything that is still to be allocated, or held already.
        what: they are, for the message, e.g. ``"the rollout of 25 steps from 128 environments"``.
        remedy: what would be right.
        held: bytes of main memory that this process has already, and that are among the items.

    Raises:
        ConfigError: one line that names the need, what there is, and the largest item.
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


def human(size: int) -> str:
    """A size for people, e.g. ``"1.5 GB"``."""
    power = min(len(str(size)) - 1, 3 * len(UNITS) - 1) // 3
    value = size / 1000**power
    return f"{value:.0f} {UNITS[power]}" if value >= 100 or power == 0 else f"{value:.1f} {UNITS[power]}"


def _machine() -> int | None:
    """What Linux could give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container leaves (cgroup v2, v1): files that are cached would make room."""
    for limit, usage, stat, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, used = (root / limit).read_text().strip(), int((root / usage).read_text())
            lines = (root / stat).read_text().splitlines()
        except OSError:
            continue
        if most != "max":
            return int(most) - used + next((int(line.split()[1]) for line in lines if line.split()[0] == cached), 0)
    return None
