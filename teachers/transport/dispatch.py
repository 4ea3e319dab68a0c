"""Distribution of requests over the replicas of a server: one thread per replica, which takes a request when it is free.

A faster replica thus answers more requests. A replica that stops answering is dropped: its request goes to the next free one,
and its thread connects again after 0.5, 1, 2, ... 30 s.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rpd.envs.errors import ConfigError, ServerLost
from rpd.teachers.transport.client import ConnectionFailed

LOG = logging.getLogger(__name__)
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # s between attempts to connect to a dropped replica

R = TypeVar("R")
T = TypeVar("T")


@dataclass
class _Job(Generic[R]):
    """One request."""

    work: Callable[[R], Any]
    future: Future[Any] = field(default_factory=Future)
    own: bool = False
    """Whether only one replica can answer it."""
    skip_dropped: bool = False
    """Whether it is of no use to a replica that was dropped."""


@dataclass
class _Lane(Generic[R]):
    """One replica, and the requests that only it can answer."""

    replica: R
    url: str
    jobs: deque[_Job[R]] = field(default_factory=deque)
    failure: str | None = None
    """Reason for which it was dropped; None: it answers."""
    attempts: int = 0
    """Attempts to connect since it was dropped."""


class Dispatcher(Generic[R]):
    """Calls functions of a replica, each replica in a thread of its own. Safe for calls from several threads."""

    def __init__(self, replicas: Sequence[R], urls: Sequence[str], restore: Callable[[R], None], retries: int) -> None:
        """Start the threads.

        Args:
            replicas: connections to the servers; one request at a time each.
            urls: their addresses.
            restore: called with a dropped replica: connects again, repeats the checks and the set-up of a connection, and
                raises `ServerLost` or `ConfigError` if that is not possible.
            retries: attempts to connect to a dropped replica before the requests that wait for it fail.
        """
        self._lanes = [_Lane(replica, url) for replica, url in zip(replicas, urls, strict=True)]
        self._restore, self._retries = restore, retries
        self._jobs: deque[_Job[R]] = deque()
        self._changed, self._closed = threading.Condition(), False
        for lane in self._lanes:
            threading.Thread(target=self._run, args=(lane,), daemon=True, name=f"replica {lane.url}").start()

    def submit(self, work: Callable[[R], T]) -> Future[T]:
        """Call `work` with the next free replica; if this is lost meanwhile, call it again with another one.

        Returns:
            Future of the result; raises `ServerLost` if all replicas are lost.
        """
        return self._add(self._jobs, _Job(work))

    def submit_to(self, index: int, work: Callable[[R], T], skip_dropped: bool = False) -> Future[T]:
        """Call `work` with one replica; if this is lost meanwhile, call it again once it is restored.

        Args:
            index: number of the replica.
            work: the function.
            skip_dropped: do not call it with a dropped replica; the result is None then: for what `restore` does too.

        Returns:
            Future of the result; raises `ServerLost` if the replica is lost.
        """
        return self._add(self._lanes[index].jobs, _Job(work, own=True, skip_dropped=skip_dropped))

    def close(self) -> None:
        """End the threads after their current requests; requests that wait are cancelled."""
        with self._changed:
            self._closed = True
            for jobs in (self._jobs, *(lane.jobs for lane in self._lanes)):
                while jobs:
                    jobs.popleft().future.cancel()
            self._changed.notify_all()

    def _add(self, jobs: deque[_Job[R]], job: _Job[R]) -> Future[Any]:
        with self._changed:
            jobs.append(job)
            self._settle()
            self._changed.notify_all()
        return job.future

    def _run(self, lane: _Lane[R]) -> None:
        while (job := self._next(lane)) is not None:
            try:
                result = job.work(lane.replica)
            except ConnectionFailed as error:
                self._drop(lane, job, error)
                if not self._restored(lane):
                    return
            except BaseException as error:  # belongs to the request, not to the replica
                job.future.set_exception(error)
            else:
                job.future.set_result(result)

    def _next(self, lane: _Lane[R]) -> _Job[R] | None:
        """Wait for the next request of a replica; None: closed."""
        with self._changed:
            while not self._closed:
                jobs = lane.jobs or self._jobs
                if not jobs:
                    self._changed.wait()
                elif _is_running((job := jobs.popleft()).future):
                    return job
            return None

    def _drop(self, lane: _Lane[R], job: _Job[R], error: ConnectionFailed) -> None:
        with self._changed:
            if self._closed:
                job.future.set_exception(error)
                return
            lane.failure, lane.attempts = error.reason, 0
            (lane.jobs if job.own else self._jobs).appendleft(job)
            left = f"{self._answering()} of {len(self._lanes)} replicas left"
            LOG.warning(f"policy server {lane.url}: {error.reason}: dropped, {left}; it is tried again now and then")
            self._settle()
            self._changed.notify_all()

    def _restored(self, lane: _Lane[R]) -> bool:
        """Connect again until it succeeds; returns False if closed."""
        while True:
            delay = min(FIRST_DELAY * 2 ** min(lane.attempts, 10), LONGEST_DELAY)
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, delay):
                    return False
            try:
                self._restore(lane.replica)
            except (ServerLost, ConfigError) as error:
                self._record(lane, error)
                continue
            with self._changed:
                lane.failure = None
                LOG.warning(f"policy server {lane.url}: answers again, {self._answering()} of {len(self._lanes)} replicas")
            return True

    def _record(self, lane: _Lane[R], error: Exception) -> None:
        """Count a failed attempt; warn once if the server answers, but cannot be used."""
        reason = error.reason if isinstance(error, ConnectionFailed) else str(error)
        with self._changed:
            if type(error) is not ConnectionFailed and reason != lane.failure:
                LOG.warning(f"policy server {lane.url}: not taken back: {reason}")
            lane.failure = reason
            lane.attempts += 1
            self._settle()

    def _answering(self) -> int:
        return sum(lane.failure is None for lane in self._lanes)

    def _settle(self) -> None:
        """Finish the requests that no replica will answer: those that a dropped one skips, and those of lost ones."""
        for lane in self._lanes:
            if lane.failure is not None:
                skipped = [job for job in lane.jobs if job.skip_dropped]
                lane.jobs = deque(job for job in lane.jobs if not job.skip_dropped)
                for job in skipped:
                    if _is_running(job.future):
                        job.future.set_result(None)
            if self._is_lost(lane):
                _fail(lane.jobs, f"policy server {lane.url}: no answer after {self._retries} retries ({lane.failure})")
        if all(map(self._is_lost, self._lanes)):
            reasons = ", ".join(f"{lane.url} ({lane.failure})" for lane in self._lanes)
            _fail(self._jobs, f"policy servers: no answer of any replica after {self._retries} retries: {reasons}")

    def _is_lost(self, lane: _Lane[R]) -> bool:
        return lane.failure is not None and lane.attempts >= self._retries


def _is_running(future: Future[Any]) -> bool:
    """Whether a future waits for its result; marks it as running. False: it was cancelled."""
    return future.running() or future.set_running_or_notify_cancel()


def _fail(jobs: deque[_Job[R]], message: str) -> None:
    while jobs:
        if _is_running(future := jobs.popleft().future):
            future.set_exception(ServerLost(message))
