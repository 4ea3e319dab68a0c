"""Resources of this machine: CPU cores and free memory. Light: used before heavy imports."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNITS = ("B", "kB", "MB", "GB", "TB")


def available(device: torch.device) -> int | None:
    """Free bytes on a device (CPU: available to this process); None if the system does not report it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return min((free for free in (_machine(), _cgroup()) if free is not None), default=None)


def cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def human(size: int) -> str:
    """Format a size, e.g. ``"1.5 GB"``."""
    power = min(len(str(size)) - 1, 3 * len(UNITS) - 1) // 3
    value = size / 1000**power
    return f"{value:.0f} {UNITS[power]}" if value >= 100 or power == 0 else f"{value:.1f} {UNITS[power]}"


def _machine() -> int | None:
    """Memory that Linux can provide without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory left below a container's limit (cgroup v2, v1); reclaimable file cache counts as free."""
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
