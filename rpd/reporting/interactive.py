"""Charts of a page: Plotly figures as JSON objects, with values on hover."""

from __future__ import annotations

import html
from typing import Any

from rpd.reporting.charts import Chart, Series

HEIGHT = 270
"""Pixels; the width is the page's."""


def plotly_figure(chart: Chart) -> dict[str, Any]:
    """Return ``data`` and ``layout`` of a chart for ``Plotly.newPlot``.

    Colors of text and grid are the page's: its style sheet overrides them, in light and dark mode.
    """
    drawn = chart.drawn
    bands = [_band(s) for s in drawn if s.low is not None and s.high is not None]
    axis = {"automargin": True, "zeroline": False, "fixedrange": False}
    x_axis = {**axis, "title": {"text": _plain(chart.x_label), "standoff": 8}, "hoverformat": ",.0f", "tickformat": "~s"}
    y_axis = {**axis, "tickformat": "~g"}
    if chart.log_x:
        x_axis |= {"type": "log", "hoverformat": ",.2~f", "dtick": 1}
    else:
        x_axis["rangemode"] = "tozero"
    if chart.percent:
        y_axis |= {"tickformat": ".0%", "range": [-0.03, 1.03]}
    layout = {
        "title": {"text": _plain(chart.title), "x": 0.02, "xanchor": "left", "font": {"size": 14}},
        "height": HEIGHT,
        "margin": {"l": 48, "r": 16, "t": 40, "b": 46},
        "xaxis": x_axis,
        "yaxis": y_axis,
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff"},  # opaque; the style sheet has the color
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "family": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"},
    }
    return {"data": bands + [_line(s, chart.percent) for s in drawn], "layout": layout}


def _line(s: Series, percent: bool) -> dict[str, Any]:
    number = ".1%" if percent else ".4g"
    value = f"%{{y:{number}}}"
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": _plain(s.label),
        "x": list(s.x),
        "y": list(s.y),
        "mode": "lines" if s.dashed or len(s.x) > 40 else "lines+markers",
        "line": {"color": s.color, "width": 1.6 if s.dashed else 2.2, "dash": "dash" if s.dashed else "solid"},
        "marker": {"size": 5},
        "hovertemplate": value,
    }
    if s.low is not None and s.high is not None:
        trace["customdata"] = [list(edges) for edges in zip(s.low, s.high, strict=True)]
        trace["hovertemplate"] = f"{value} (%{{customdata[0]:{number}}} to %{{customdata[1]:{number}}})"
    return trace


def _band(s: Series) -> dict[str, Any]:
    assert s.low is not None and s.high is not None
    return {
        "type": "scatter",
        "x": [*s.x, *reversed(s.x)],
        "y": [*s.high, *reversed(s.low)],
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": s.color,
        "opacity": 0.18,
        "hoverinfo": "skip",
    }


def _plain(text: str) -> str:
    """Escape a text: Plotly reads tags such as ``<b>`` in labels."""
    return html.escape(text, quote=False)
