"""Rows of a batch that several processes share, and random numbers that do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RowShare:
    """One process's rows ``first .. first + count - 1`` of a batch of `total` rows."""

    first: int
    count: int
    total: int

    @property
    def fraction(self) -> float:
        """Weight of a mean over these rows in the mean over all rows."""
        return self.count / self.total

    def of(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a tensor [total, ...]."""
        return rows[self.first : self.first + self.count]


def draw_rows(draw: Callable[[int], Tensor], count: int, share: RowShare | None) -> Tensor:
    """Draw random numbers of `count` rows.

    Args:
        draw: draws the numbers of a number of rows, [rows, ...].
        count: rows of this process.
        share: with other processes, whose generators are in the same state: the numbers of all rows are drawn, and those of
            other rows dropped, so that a row's number does not depend on the number of processes. None: no other process.
    """
    return draw(count) if share is None else share.of(draw(share.total))
