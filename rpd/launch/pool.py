"""Run many jobs on a launcher, some at a time, until all have ended or the user stops them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpd.core.interrupt import Interrupt
from rpd.launch.base import Launcher, Running
from rpd.launch.job import INTERRUPTED, Ended, Job

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A job that ended, and the state of the pool at this moment.

    Attributes:
        job: the job.
        ended: exit code and problem.
        progress: e.g. ``"3 of 8 ended, about 12 min left"``.
    """

    job: Job
    ended: Ended
    progress: str

    @property
    def failed(self) -> bool:
        """Whether the job neither succeeded nor stopped on request."""
        return self.ended.code not in (0, INTERRUPTED)

    @property
    def failure(self) -> str:
        """One line about a failed job."""
        return f"failed: {self.job.name}: {f'{self.ended.problem}; ' if self.ended.problem else ''}see {self.job.log}"


class Pool:
    """Runs jobs.

    The first SIGINT or SIGTERM asks the running jobs to save a checkpoint and end; the second one ends them at once.

    Args:
        launcher: where the jobs run; checked before.
        jobs: the jobs, in the order of their start.
        folder: folder of their results.
        at_once: jobs at a time; None: the launcher's default.

    Attributes:
        interrupted: whether the user stopped the jobs.
    """

    def __init__(self, launcher: Launcher, jobs: Sequence[Job], folder: Path, at_once: int | None = None) -> None:
        if jobs:
            launcher.check(jobs, folder)
            at_once = at_once or launcher.at_once(jobs[0])
        self.interrupted = False
        self._launcher, self._total = launcher, len(jobs)
        self._waiting, self._slots = list(jobs), min(at_once or len(jobs), len(jobs))
        self._running: dict[int, tuple[Job, Running]] = {}  # by slot
        self._places: dict[str, str] = {}  # by name of a job
        self._began: dict[str, float] = {}
        self._lengths: list[float] = []  # of ended jobs, seconds
        self._widest = 0

    def outcomes(self) -> Iterator[Outcome]:
        """Run the jobs; yield each one that has ended.

        Raises:
            ConfigError: the launcher refuses a job.
        """
        with Interrupt() as interrupt:
            try:
                while self._running or (self._waiting and not interrupt.requested):
                    if not interrupt.requested:
                        self._fill()
                    elif not self.interrupted:
                        self.interrupted = True
                        for _, running in self._running.values():
                            running.stop()
                    yield from self._ended()
                    if self._running:
                        time.sleep(self._launcher.poll_s)
            finally:
                for _, running in self._running.values():
                    running.kill()
                self.interrupted |= interrupt.requested

    def _fill(self) -> None:
        for slot in range(self._slots):
            if slot not in self._running and self._waiting:
                job = self._waiting.pop(0)
                self._running[slot] = (job, self._launcher.start(job, slot))

    def _ended(self) -> Iterator[Outcome]:
        for slot, (job, running) in list(self._running.items()):
            self._report(job, running)
            if (ended := running.poll()) is not None:
                del self._running[slot]
                if job.name in self._began:
                    self._lengths.append(time.monotonic() - self._began.pop(job.name))
                yield Outcome(job, ended, self._progress())

    def _report(self, job: Job, running: Running) -> None:
        """Log a job that has begun, here or on another node than before."""
        place = running.place()
        if place and place != self._places.get(job.name):
            self._began.setdefault(job.name, time.monotonic())
            self._places[job.name] = place
            self._widest = max(self._widest, len(self._began))
            waiting = len(self._waiting) + len(self._running) - len(self._began)
            LOG.info(f"{job.name}: runs on {place}; {len(self._began)} running, {waiting} waiting")

    def _progress(self) -> str:
        left = len(self._waiting) + len(self._running)
        text = f"{self._total - left} of {self._total} ended"
        if not (left and self._lengths):
            return text
        mean = sum(self._lengths) / len(self._lengths)
        return f"{text}, about {_duration(mean * left / max(self._widest, 1))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
