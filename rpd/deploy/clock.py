"""Time of a control loop: that of the computer, or that of a simulation which waits for the loop."""

from __future__ import annotations

import time
from typing import Protocol

ANSWER_WAIT = 0.5  # fraction of a period that a tick waits for the answer to its own query
PATIENCE = 60.0  # longest wait for an answer in simulated time, s


class Clock(Protocol):
    """Time in s, from an arbitrary origin."""

    def now(self) -> float:
        """The current time."""

    def sleep_until(self, deadline: float) -> None:
        """Wait for a time; return at once if it has passed."""

    def answer_by(self, now: float, period: float) -> float:
        """`time.monotonic` until which a tick that began at `now` waits for the answer to its query."""


class RealClock:
    """Real time, `time.monotonic`."""

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def sleep_until(self, deadline: float) -> None:
        """See `Clock`."""
        time.sleep(max(0.0, deadline - time.monotonic()))

    def answer_by(self, now: float, period: float) -> float:
        """See `Clock`."""
        return now + ANSWER_WAIT * period


class Steppable(Protocol):
    """A simulation that is stepped."""

    def advance(self, until: float) -> None:
        """Simulate until a time, s from the start of the simulation."""


class SteppedClock:
    """Simulated time, which passes only while the loop sleeps: computation takes no time.

    Args:
        simulation: advanced by `sleep_until`.
    """

    def __init__(self, simulation: Steppable) -> None:
        self._simulation, self._time = simulation, 0.0

    def now(self) -> float:
        """See `Clock`."""
        return self._time

    def sleep_until(self, deadline: float) -> None:
        """See `Clock`."""
        if deadline > self._time:
            self._simulation.advance(deadline)
            self._time = deadline

    def answer_by(self, now: float, period: float) -> float:
        """See `Clock`."""
        return time.monotonic() + PATIENCE
