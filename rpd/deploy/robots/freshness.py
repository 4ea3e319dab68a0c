"""Time of a measurement, from the controller's own clock."""

from __future__ import annotations

import time

DRIFT = 200e-6
"""Largest difference between the rates of a controller's clock and this computer's, s per s."""


class Freshness:
    """Converts time stamps of a controller to times of this computer.

    A driver that stamps a measurement when it reads it takes the last packet of a dead stream, or one that was delayed on its
    way, for a new one. Here the difference between the two clocks is the smallest that has been seen: a measurement is as old
    as its time stamp, less the shortest delay of the connection.
    """

    def __init__(self) -> None:
        self._stamp: float | None = None
        self._seen, self._offset = 0.0, float("inf")

    def time(self, stamp: float) -> float:
        """Return the time (`time.monotonic`) of a measurement.

        Args:
            stamp: time of the measurement on the controller's clock, s; equal stamps are one measurement.
        """
        if stamp != self._stamp:
            now = time.monotonic()
            self._offset = min(self._offset + DRIFT * (now - self._seen), now - stamp)
            self._stamp, self._seen = stamp, now
        return stamp + self._offset
