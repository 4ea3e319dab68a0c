"""Time of a measurement, from the controller's own clock or sequence number."""

from __future__ import annotations

import time


class Freshness:
    """Converts time stamps of a controller to times of this computer.

    A driver that stamps a measurement when it reads it takes the last packet of a dead stream for a new one. Here a measurement
    is as old as the last change of its time stamp.
    """

    def __init__(self) -> None:
        self._stamp: float | None = None
        self._seen = -float("inf")

    def time(self, stamp: float) -> float:
        """Return the time (`time.monotonic`) at which this stamp was first seen.

        Args:
            stamp: time or number of the measurement, in any unit; equal stamps are one measurement.
        """
        if stamp != self._stamp:
            self._stamp, self._seen = stamp, time.monotonic()
        return self._seen
