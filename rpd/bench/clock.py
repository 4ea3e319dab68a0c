"""Clocks that include asynchronous device work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch


def clock(device: torch.device) -> Callable[[], float]:
    """A clock that synchronizes with the device first, so that pending work is not attributed to a later step."""
    return _waiting if device.type == "cuda" else time.perf_counter


def cpu_seconds() -> float | None:
    """CPU time of this process and its workers, independent of other load on the machine; None except on Linux."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return None
    workers = (tasks / str(os.getpid()) / "children").read_text().split()
    # Fields 14 and 15 of proc(5), counted after the name in parentheses, which may contain spaces.
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in ("self", *workers)]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def _waiting() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
