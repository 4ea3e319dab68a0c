"""Start the processes of a distributed run, as torchrun does, and end them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import warm

TIMEOUT = 240  # s, for a busy machine


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def started(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[list[warm.Process]]:
    """Start one rank per command (arguments of the interpreter); their outputs are in ``folder/rank<k>.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {
        **os.environ, "PYTHONPATH": str(warm.ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(len(commands)),
        "LOCAL_WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    processes = []
    try:
        for rank, words in enumerate(commands):
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(warm.Process(words, env, folder, folder / f"rank{rank}.txt"))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(TIMEOUT)


def run(commands: Sequence[Sequence[str]], folder: Path) -> tuple[list[int], list[str]]:
    """Run the ranks to their ends; returns exit codes and outputs."""
    with started(commands, folder) as processes:
        codes = [process.wait(TIMEOUT) for process in processes]
    return codes, [(folder / f"rank{rank}.txt").read_text() for rank in range(len(commands))]


def rpd(words: Sequence[str], ranks: int, folder: Path) -> tuple[list[int], list[str]]:
    """Run an `rpd` command on a number of ranks."""
    return run([["-m", "rpd", *map(str, words)]] * ranks, folder)
