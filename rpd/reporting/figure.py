"""Figures for papers and Markdown pages: PDF, SVG or PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpd.core.files import write_bytes
from rpd.reporting.charts import Chart, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".svg", ".png")
WIDTH, HEIGHT = 3.4, 2.3
"""Size of one chart, inches."""
ENTRY = 0.9
"""Width of a legend's entry without its text, inches."""
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#9aa4b0",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e1e5ea",
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "rpd",  # the same input gives the same file
}


def save(charts: Sequence[Chart], path: Path, cols: int = 3) -> None:
    """Write charts with one legend, in rows of up to `cols`.

    Args:
        charts: at least one.
        path: file; its ending is one of `FORMATS`.
        cols: charts per row.
    """
    write_bytes(path, _draw(charts, path.suffix[1:], cols))


def svg(charts: Sequence[Chart], cols: int = 3) -> str:
    """Draw charts with one legend, in rows of up to `cols`, as the text of an SVG file."""
    return _draw(charts, "svg", cols).decode()


def _draw(charts: Sequence[Chart], kind: str, cols: int) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    cols = max(1, min(cols, len(charts)))
    rows = math.ceil(len(charts) / cols)
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(cols * WIDTH, rows * HEIGHT + 0.35), layout="constrained")
        for i, chart in enumerate(charts):
            _chart(figure.add_subplot(rows, cols, i + 1), chart)
        _legend(figure, charts, cols)
        dates: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(out, format=kind, metadata=dates, dpi=200)
    return out.getvalue()


def _chart(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter, StrMethodFormatter

    for s in chart.drawn:
        if s.low is not None and s.high is not None:
            axes.fill_between(s.x, s.low, s.high, color=s.color, alpha=0.18, linewidth=0)
        axes.plot(s.x, s.y, color=s.color, linewidth=1 if s.dashed else 1.5, linestyle="--" if s.dashed else "-", label=s.label)
        if not s.dashed:
            axes.plot(s.x[-1:], s.y[-1:], "o", color=s.color, markersize=3)
    axes.set_title(chart.title, loc="left")
    axes.set_xlabel(chart.x_label)
    if chart.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default one is a formula
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=min(0.0, *(x for s in chart.drawn for x in s.x)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if chart.percent:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _legend(figure: Figure, charts: Sequence[Chart], cols: int) -> None:
    from matplotlib.lines import Line2D

    entries = legend(charts)
    lines = [Line2D([], [], color=s.color, linewidth=1.5, linestyle="--" if s.dashed else "-") for s in entries]
    longest = max((len(s.label) for s in entries), default=0) * 0.065 + ENTRY
    per_row = max(1, min(len(entries), int(cols * WIDTH / longest)))
    figure.legend(lines, [s.label for s in entries], loc="outside upper center", ncols=per_row, frameon=False)
