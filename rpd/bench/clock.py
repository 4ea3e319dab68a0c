"""Clocks that include asynchronous device work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

HAS_PROC = Path("/proc/self/task").exists()
"""Whether this machine reports CPU times of processes (Linux)."""


def clock(device: torch.device) -> Callable[[], float]:
    """A clock that synchronizes with the device first, so that pending work is not attributed to a later step."""
    return _waiting if device.type == "cuda" else time.perf_counter


def cpu_seconds() -> float | None:
    """CPU time of this process and its workers, independent of other load on the machine; None except on Linux."""
    if not HAS_PROC:
        return None
    return sum(map(cpu_seconds_of, (os.getpid(), *children_of(os.getpid()))))


def cpu_seconds_of(pid: int) -> float:
    """CPU time of one process; only on Linux."""
    # Fields 14 and 15 of proc(5), counted after the name in parentheses, which may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Processes that the main thread of a process has started, oldest first; only on Linux."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def load_average() -> str:
    """Load of the machine by other processes, as one sentence."""
    return f"load average of the last minute before the measurement: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"


def _waiting() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
