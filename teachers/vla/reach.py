"""Ranges of a teacher's actions; detects grippers that could only open or only close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 0.1
"""Distance from ±1 below which a constant is a gripper kept open or closed, as in data of tasks without a grasp."""


@dataclass(frozen=True)
class Reach:
    """Minimum and maximum of a teacher's outputs per dimension, in its own units."""

    low: np.ndarray
    """[A] float64; -inf if unknown."""
    high: np.ndarray
    """[A] float64; inf if unknown."""
    source: str
    """Source of the range, for messages, e.g. ``"the statistics of 'demos'"``."""

    @property
    def ends(self) -> np.ndarray:
        """Both ends [2, A]."""
        return np.stack([self.low, self.high])

    def within(self, low: np.ndarray, high: np.ndarray, source: str) -> Reach:
        """Intersection with another range [A]; the nearest end if they are disjoint."""
        return Reach(np.clip(self.low, low, high), np.clip(self.high, low, high), source)

    def words(self, dimension: int) -> str:
        """Range of one dimension as text, e.g. ``0 to 1``."""
        low, high = float(self.low[dimension]), float(self.high[dimension])
        return f"always {low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def is_one_sided(low: float, high: float) -> bool:
    """Return whether a discrete dimension with range [low, high] in the environment's units never changes its sign.

    A constant at -1 or +1 is accepted, as data of tasks without a grasp have it.
    """
    low, high = min(low, high), max(low, high)
    constant = min(abs(abs(low) - 1), abs(abs(high) - 1)) <= NEAR and high - low <= NEAR
    return (low >= 0 or high <= 0) and not constant
