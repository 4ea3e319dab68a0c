"""Rank of this process in a run that torchrun has started, from the environment; without importing torch."""

from __future__ import annotations

import os

from rpd.envs.errors import ConfigError

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"


def world_size() -> int:
    """Number of processes of the run; 1 without torchrun.

    Raises:
        ConfigError: the variable is not a number.
    """
    return _number(WORLD_SIZE, 1)


def rank() -> int:
    """Index of this process, 0 to `world_size` - 1.

    Raises:
        ConfigError: no number, or not below `world_size`.
    """
    if world_size() == 1:
        return 0
    if not 0 <= (index := _number(RANK, world_size())) < world_size():
        raise ConfigError(
            f"{WORLD_SIZE} is {world_size()} and {RANK} {os.environ.get(RANK, 'not set')}: start the ranks with torchrun"
        )
    return index


def local_rank() -> int:
    """Index of this process on its machine."""
    return _number(LOCAL_RANK, 0)


def local_world_size() -> int:
    """Number of processes on this machine."""
    return _number(LOCAL_WORLD_SIZE, 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"environment variable {name} is '{text}', not a number: start the ranks with torchrun")
    return int(text)
