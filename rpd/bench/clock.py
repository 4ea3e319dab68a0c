"""Seconds, also of work that a device does later."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def clock(device: torch.device) -> Callable[[], float]:
    """A clock that waits until all that was asked of the device is done: else work is charged to whoever waits for it."""
    return _waiting if device.type == "cuda" else time.perf_counter


def _waiting() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
