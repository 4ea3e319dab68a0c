"""Numpy arrays in memory shared between processes: workers of a CPU simulation read actions and write results in place."""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Arrays by name: numpy dtype and shape."""

_ALIGN = 64


def create() -> int:
    """Open an anonymous file: it needs no cleanup and is freed with the last process that holds it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rpd-envs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def attach(fd: int, layout: Layout) -> dict[str, np.ndarray]:
    """Map the arrays of a layout, growing the file as needed. Memory is allocated on first access to a page."""
    sizes = {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (dtype, shape) in layout.items()}
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // _ALIGN) * _ALIGN
    if os.fstat(fd).st_size < end:
        os.ftruncate(fd, end)
    memory = mmap.mmap(fd, end)
    return {name: np.ndarray(shape, dtype, buffer=memory, offset=offsets[name]) for name, (dtype, shape) in layout.items()}
