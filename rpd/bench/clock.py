"""Seconds, also of work that a device does later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch


def clock(device: torch.device) -> Callable[[], float]:
    """A clock that waits until all that was asked of the device is done: else work is charged to whoever waits for it."""
    return _waiting if device.type == "cuda" else time.perf_counter


def cpu_seconds() -> float | None:
    """CPU time that this process and its workers have used, which others on the machine do not lengthen; None off Linux."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return None
    workers = (tasks / str(os.getpid()) / "children").read_text().split()
    # Fields 14 and 15 of proc(5), counted after the name in parentheses, which may hold spaces.
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in ("self", *workers)]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def _waiting() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
