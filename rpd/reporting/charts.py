"""Content of charts; drawn for a page by `rpd.reporting.interactive`, for a paper by `rpd.reporting.figure`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLORS = ("#3b7cf0", "#e07a10", "#12a383", "#b455b2", "#d4495f", "#7a8696", "#a5801f")
"""Colors of the series by index, distinguishable with color blindness, on white and on black."""


@dataclass(frozen=True)
class Series:
    """One line of a chart. Lists have equal lengths."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower edge of a band around y."""
    high: Sequence[float] | None = None
    index: int = 0
    """Index of the color."""
    dashed: bool = False

    @property
    def color(self) -> str:
        """Color as ``#rrggbb``; after the last one the first."""
        return COLORS[self.index % len(COLORS)]


@dataclass(frozen=True)
class Chart:
    """One plot."""

    title: str
    series: Sequence[Series]
    x_label: str = "environment steps"
    percent: bool = False
    """y is a fraction of 1, shown from 0 to 100 %."""
    log_x: bool = False
    """Logarithmic x axis; all x must be above 0."""

    @property
    def drawn(self) -> list[Series]:
        """Series with points."""
        return [s for s in self.series if len(s.x)]


def legend(charts: Sequence[Chart]) -> list[Series]:
    """Return one series per label of the charts, in the order of their first appearance."""
    entries: dict[str, Series] = {}
    for chart in charts:
        for s in chart.drawn:
            entries.setdefault(s.label, s)
    return list(entries.values())
