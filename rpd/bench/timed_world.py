"""Ranks of a run that record where the time goes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from rpd.core.distributed import World

FLAG_BYTES = 4
"""Bytes of the flag by which ranks compare errors."""


class TimedWorld(World):
    """Ranks that record the compute time between collectives and the time in each of them.

    Attributes:
        parts: wall and CPU seconds of this process before each collective of the iteration.
        collectives: kind, bytes and wall seconds of each collective.
        collecting: wall seconds until the last gathered value, of finished episodes, without the collectives.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self._inside = False  # a collective
        self.begin()

    def begin(self) -> None:
        """Begin an iteration."""
        self.parts: list[tuple[float, float]] = []
        self.collectives: list[tuple[str, int, float]] = []
        self.collecting, self.gradient_sums = 0.0, 0
        self.waited, self.sent = 0.0, 0
        self._began = self._resumed = _now()

    def end(self) -> dict[str, Any]:
        """Return the record of the iteration."""
        self._part()
        wall, cpu = _since(self._began)
        return {
            "wall": wall, "cpu": cpu, "collecting": self.collecting, "parts": self.parts, "collectives": self.collectives,
            "gradient_sums": self.gradient_sums, "gradient_seconds": self.waited, "gradient_bytes": self.sent,
        }  # fmt: skip

    def sum(self, value: Tensor) -> Tensor:
        """See `World.sum`."""
        with self._collective("all_reduce", value.numel() * value.element_size()):
            return super().sum(value)

    def gather(self, value: Any) -> list[Any]:
        """See `World.gather`."""
        with self._collective("gather", len(json.dumps(value))):
            values = super().gather(value)
        self.collecting = _since(self._began)[0] - sum(seconds for _, _, seconds in self.collectives)
        return values

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """See `World.sum_in_place`."""
        self.gradient_sums += self.size > 1
        with self._collective("all_reduce", sum(tensor.numel() * tensor.element_size() for tensor in tensors)):
            super().sum_in_place(tensors)

    def _compare_faults(self, fault: Exception | None) -> None:
        with self._collective("all_reduce", FLAG_BYTES):
            super()._compare_faults(fault)

    @contextlib.contextmanager
    def _collective(self, kind: str, size: int) -> Iterator[None]:
        if self.size == 1 or self._inside:
            yield
            return
        self._part()
        began, self._inside = _now(), True
        try:
            yield
        finally:
            self._inside = False
        self.collectives.append((kind, size, _since(began)[0]))
        self._resumed = _now()

    def _part(self) -> None:
        self.parts.append(_since(self._resumed))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(then: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _now()
    return wall - then[0], cpu - then[1]
