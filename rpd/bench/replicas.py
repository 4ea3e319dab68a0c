"""Labels per second of a teacher behind one policy server, and behind two."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from rpd.bench.clock import HAS_PROC, children_of, cpu_seconds_of
from rpd.bench.teacher import Walk, difference, label, walk
from rpd.core import children
from rpd.envs.errors import RunFault
from rpd.envs.specs import EnvSpec
from rpd.teachers import registry

BATCHES = (16, 64, 128)
COUNT = 2
ANNOUNCED = " replicas are ready: "


@dataclass
class Rates:
    """Labels per second of one batch size; round by round, by turns."""

    batch: int
    one: list[float] = field(default_factory=list)
    """With one server."""
    two: list[float] = field(default_factory=list)
    """With two servers."""
    cpu_one: list[float] = field(default_factory=list)
    """Labels per CPU second of the server, with one; empty except on Linux."""
    cpu_two: list[float] = field(default_factory=list)
    """Labels per CPU second of the server that used more of it, with two."""
    gap: float = 0.0
    """Mean distance of the actions of both, of -1 to 1."""

    @property
    def ratios(self) -> list[float]:
        """Rates with two servers, relative to those with one in the same round."""
        return [two / one for one, two in zip(self.one, self.two, strict=True)]


def measure(name: str, task: str, image_size: int | None, rounds: int, num_threads: int) -> list[Rates]:
    """Label the same observations through one and through two servers on this machine, each with `num_threads` threads.

    Args:
        name: reference of the teacher, which computes on the CPU.
        task: task of the observations, of steps in which the teacher acts.
        image_size: size of images, pixels; None: the default.
        rounds: repetitions, after one that warms up.
        num_threads: CPU threads of each server.

    Raises:
        RunFault: the servers do not start; they have printed the reason.
    """
    walks = [walk(name, task, image_size, batch, torch.device("cpu")) for batch in BATCHES]
    with _serving(name, task, num_threads) as (ref, servers):
        return [_compare(ref, servers, walked, spec, rounds) for walked, spec in walks]


def _compare(ref: str, servers: list[int], walked: Walk, spec: EnvSpec, rounds: int) -> Rates:
    one, two = registry.make(ref.partition(",")[0], spec), registry.make(ref, spec)
    try:
        rates = Rates(len(walked.seen[0][1]))
        rates.gap = difference(label(one, walked)[1], label(two, walked)[1], spec.action.discrete)[0]  # warms up
        for _ in range(rounds):
            for teacher, per_second, per_cpu_second in ((one, rates.one, rates.cpu_one), (two, rates.two, rates.cpu_two)):
                before = [cpu_seconds_of(server) for server in servers]
                per_second.append(walked.count / label(teacher, walked)[0])
                spent = [cpu_seconds_of(server) - then for server, then in zip(servers, before, strict=True)]
                if busiest := max(spent, default=0.0):  # 0: less than a tick of the clock
                    per_cpu_second.append(walked.count / busiest)
        return rates
    finally:
        one.close()
        two.close()


@contextlib.contextmanager
def _serving(name: str, task: str, num_threads: int) -> Iterator[tuple[str, list[int]]]:
    """Context of running servers: their reference, and their process numbers, if this machine reports CPU times."""
    words = ["serve", name, "--task", task, "--replicas", str(COUNT), "--port", "0"]
    words += ["--device", "cpu", "--num-threads", str(num_threads)]
    process = children.start(words, subprocess.PIPE, {"OMP_NUM_THREADS": str(num_threads)})
    assert process.stdout is not None
    try:
        for line in process.stdout:
            _, announced, ref = line.decode().strip().partition(ANNOUNCED)
            if announced:
                yield ref, children_of(process.pid) if HAS_PROC else []
                return
        raise RunFault(f"rpd serve {name} does not start")
    finally:
        process.terminate()
        process.communicate()
