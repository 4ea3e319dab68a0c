"""Throughput of data-parallel training with several numbers of ranks on this machine, and its simulation with more."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rpd.bench.scaling import Collective, Recording
from rpd.config.schema import RunConfig
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.processes import python

ITERATIONS = 3
"""Iterations per round and number of ranks."""
REPLY = "bench ranks: "
"""Start of a line with a rank's answer; libraries print lines, too."""
Record = dict[str, Any]
"""See `rpd.bench.timed_world.TimedWorld.end`."""


@dataclass
class Runs:
    """Records of one number of ranks."""

    ranks: int
    steps: int
    """Environment steps of an iteration, of all ranks."""
    rounds: list[list[list[Record]]] = field(default_factory=list)
    """By round, rank and iteration."""
    parameters: int = 0
    """Trained parameters of the student."""
    action_dims: int = 0
    pinned: bool = False
    """Whether each rank has a core of its own."""

    @property
    def records(self) -> list[Record]:
        """Records of all rounds, ranks and iterations."""
        return [record for turn in self.rounds for rank in turn for record in rank]

    def rates(self, clock: str = "wall") -> list[float]:
        """Environment steps per second by round; `clock` "cpu": per CPU second of the rank that used most of it."""
        return [len(turn[0]) * self.steps / max(sum(r[clock] for r in rank) for rank in turn) for turn in self.rounds]

    def recording(self, clock: str) -> Recording:
        """Parts of an iteration by the "wall" clock or the "cpu" time of the process."""
        seconds = np.array([[part[clock == "cpu"] for part in record["parts"]] for record in self.records])
        positions = zip(*(record["collectives"] for record in self.records), strict=True)
        collectives = [Collective(found[0][0], max(size for _, size, _ in found)) for found in positions]
        inside = statistics.median(record["cpu"] - sum(cpu for _, cpu in record["parts"]) for record in self.records)
        return Recording(seconds, collectives, inside)


def check(sizes: Sequence[int]) -> None:
    """Check the numbers of ranks.

    Raises:
        ConfigError: fewer than two, or no rising order.
    """
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise ConfigError(f"--ranks {' '.join(map(str, sizes))}: at least two numbers of ranks in rising order, e.g. 1 2")


def measure(config: RunConfig, sizes: Sequence[int], rounds: int) -> list[Runs]:
    """Train with each number of ranks, by turns.

    Args:
        config: configuration of one rank; with several, each has `env.num_envs` environments (weak scaling).
        sizes: numbers of ranks.
        rounds: turns of each; one takes `ITERATIONS` iterations.

    Raises:
        ConfigError: a rank refuses the configuration.
        RunFault: a rank ended.
    """
    found = [Runs(size, size * config.env.num_envs * config.ppo.num_steps) for size in sizes]
    with contextlib.ExitStack() as running:
        worlds = [running.enter_context(_started(config, runs)) for runs in found]
        for runs, processes in zip(found, worlds, strict=True):
            ready, *_ = [_answer(process) for process in processes]
            runs.parameters, runs.action_dims = ready["parameters"], ready["action_dims"]
        for _ in range(rounds):
            for runs, processes in zip(found, worlds, strict=True):
                for process in processes:
                    _request(process)
                runs.rounds.append([_answer(process) for process in processes])
    return found


@contextlib.contextmanager
def _started(config: RunConfig, runs: Runs) -> Iterator[list[subprocess.Popen[str]]]:
    """Context of the processes of a number of ranks, each on a core of its own if there are as many."""
    env = config.env.model_copy(update={"num_envs": config.env.num_envs * runs.ranks})
    text = config.model_copy(update={"env": env}).model_dump_json()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    runs.pinned = runs.ranks <= len(cores)
    shared = {
        **os.environ, "OMP_NUM_THREADS": str(config.num_threads), "WORLD_SIZE": str(runs.ranks),
        "LOCAL_WORLD_SIZE": str(runs.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
    }  # fmt: skip
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(runs.ranks):
            words = [text, str(cores[rank] if runs.pinned else -1)]
            processes.append(subprocess.Popen(
                python("from rpd.cli.bench_rank import main; main()", *words), text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            ))  # fmt: skip
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _request(process: subprocess.Popen[str]) -> None:
    """Request the iterations of a turn from a rank."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended: its answer is missing
        process.stdin.write(f"{ITERATIONS}\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> Any:
    """Return the next answer of a rank."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(REPLY):
            found = json.loads(line.removeprefix(REPLY))
            if "error" in found:
                raise (ConfigError if found["is_config"] else RunFault)(found["error"])
            return found
    raise RunFault("a rank of rpd bench ranks has ended; it has printed the reason")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
