"""Line charts and bars as plain SVG without scripts, in light and dark mode. Labels are escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 34, 42
"""Margins around the plot area, pixels."""

# Colors of the series by index, distinguishable with color blindness, on white and on black.
LIGHT = ("#2563eb", "#e07a10", "#0d9373", "#a33ea1", "#c2334d", "#5f6b7a", "#8a6a12")
DARK = ("#6ea8fe", "#f5a04a", "#3fc9a0", "#d583d3", "#f0788c", "#a3adba", "#d6ba5c")


def _colors(palette: Sequence[str]) -> str:
    return " ".join(f"svg.chart .s{i} {{ stroke: {c}; }} svg.chart .f{i} {{ fill: {c}; }}" for i, c in enumerate(palette))


STYLE = f"""
svg.chart {{ font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; color-scheme: light dark; }}
svg.chart text {{ fill: #59636e; }}
svg.chart .title {{ font-weight: 600; font-size: 13.5px; fill: #1b1f24; }}
svg.chart .gridline {{ stroke: #d8dee4; stroke-width: 1; }}
svg.chart .line {{ fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }}
svg.chart .dashed {{ stroke-dasharray: 5 4; stroke-width: 1.6; }}
svg.chart .band {{ opacity: 0.16; stroke: none; }}
{_colors(LIGHT)}
@media (prefers-color-scheme: dark) {{
svg.chart text {{ fill: #9aa4b0; }}
svg.chart .title {{ fill: #e6e9ee; }}
svg.chart .gridline {{ stroke: #2b323b; }}
svg.chart .band {{ opacity: 0.22; }}
{_colors(DARK)}
}}
"""


@dataclass(frozen=True)
class Series:
    """One line of a chart. Lists have equal lengths."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower edge of a band around y."""
    high: Sequence[float] | None = None
    color: int = 0
    """Index into the palette."""
    dashed: bool = False


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
    def empty(self) -> bool:
        """Whether the chart has no points."""
        return not any(len(s.x) for s in self.series)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high]."""
    if high <= low:
        pad = abs(low) / 10 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """Format a number for an axis.

    >>> [short(v) for v in (0, 0.25, 1500, 200_000, 1_500_000)]
    ['0', '0.25', '1.5k', '200k', '1.5M']
    """
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def line_chart(chart: Chart) -> Markup:
    """Draw one chart as an ``<svg>`` element; requires the page style `STYLE`."""
    tag = Markup('<svg class="chart" viewBox="0 0 {} {}" aria-label="{}">{}</svg>')
    return tag.format(WIDTH, HEIGHT, chart.title, Markup(_body(chart)))


def figure(charts: Sequence[Chart], cols: int) -> Markup:
    """Draw charts in rows with one legend, as a complete SVG file with its own style."""
    width = cols * WIDTH
    keys, top = _legend(list({s.label: s for c in charts for s in c.series}.values()), width - LEFT)
    height = top + math.ceil(len(charts) / cols) * HEIGHT
    parts = [f'<g transform="translate({LEFT} 0)">{keys}</g>']
    for i, chart in enumerate(charts):
        parts.append(f'<g transform="translate({i % cols * WIDTH} {i // cols * HEIGHT + top})">{_body(chart)}</g>')
    return Markup(
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def legend(series: Sequence[Series]) -> Markup:
    """Return the labels of the series with their colors as HTML, which wraps in a narrow page."""
    entries = "".join(
        f'<span><svg class="chart" viewBox="0 0 22 10">{_swatch(s, 0, 5)}</svg>{escape(s.label)}</span>' for s in series
    )
    return Markup(f'<div class="legend">{entries}</div>')


def stacked_bar(parts: Sequence[tuple[str, float]]) -> Markup:
    """Draw the parts (label, amount) of a total, as an ``<svg>`` element with percentages.

    Parts of zero are omitted; the others keep the color of their index, which is the same in every bar.

    Returns:
        An empty string if the total is zero.
    """
    total = sum(v for _, v in parts)
    if total <= 0:
        return Markup("")
    out, at = [], 0.0
    shown = [(i, label, amount) for i, (label, amount) in enumerate(parts) if amount > 0]
    for place, (i, label, amount) in enumerate(shown):
        width = amount / total * 2 * WIDTH
        out.append(f'<rect class="f{i}" x="{at:.1f}" y="0" width="{max(width - 2, 0):.1f}" height="22" rx="3"/>')
        x = place * 2 * WIDTH / len(shown)
        out.append(f'<rect class="f{i}" x="{x:.1f}" y="36" width="11" height="11" rx="2"/>')
        out.append(f'<text x="{x + 17:.1f}" y="46">{escape(label)} {amount / total:.0%}</text>')
        at += width
    return Markup(f'<svg class="chart bar" viewBox="0 0 {2 * WIDTH} 52" role="img" aria-label="time">{"".join(out)}</svg>')


def _body(chart: Chart) -> str:
    lines = [s for s in chart.series if len(s.x)]
    title = f'<text class="title" x="{LEFT}" y="20">{escape(chart.title)}</text>'
    if not lines:
        return title
    xs = [v for s in lines for v in s.x]
    ys = [v for s in lines for values in (s.y, s.low or (), s.high or ()) for v in values]
    y_ticks = [0, 0.25, 0.5, 0.75, 1.0] if chart.percent else ticks(min(ys), max(ys))
    x_low, x_high = min(0.0, *xs), max(xs) if max(xs) > min(0.0, *xs) else min(0.0, *xs) + 1
    # a run of 499,200 steps may show 500k at its end
    x_ticks = [t for t in ticks(x_low, x_high, count=6) if t <= x_high * 1.01]
    if chart.log_x:
        powers = range(math.floor(math.log10(min(xs))), max(math.ceil(math.log10(max(xs))), 1) + 1)
        x_low, x_high, x_ticks = float(powers[0]), float(powers[-1]), [10.0**power for power in powers]

    def px(x: float) -> float:
        at = math.log10(x) if chart.log_x else x
        return LEFT + (at - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return TOP + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [title]
    for t in y_ticks:
        text = f"{t:.0%}" if chart.percent else short(t)
        parts.append(f'<line class="gridline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{py(t) + 4:.1f}" text-anchor="end">{text}</text>')
    for t in x_ticks:
        parts.append(f'<text x="{px(t):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{short(t)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 7}" text-anchor="middle">{escape(chart.x_label)}</text>')
    parts += [_band(s, px, py) for s in lines if s.low is not None and s.high is not None]
    parts += [_line(s, px, py, chart.percent) for s in lines]
    return "".join(parts)


def _line(s: Series, px: Callable[[float], float], py: Callable[[float], float], percent: bool) -> str:
    points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.y, strict=True))
    end = f"{s.y[-1]:.0%}" if percent else f"{s.y[-1]:.4g}"
    dashed = " dashed" if s.dashed else ""
    tip = f"<title>{escape(s.label)}: {end} at {s.x[-1]:,.0f}</title>"
    line = f'<polyline class="line s{s.color % len(LIGHT)}{dashed}" points="{points}">{tip}</polyline>'
    if s.dashed:
        return line
    return (
        line + f'<circle class="f{s.color % len(LIGHT)}" cx="{px(s.x[-1]):.1f}" cy="{py(s.y[-1]):.1f}" r="3.2">{tip}</circle>'
    )


def _band(s: Series, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    assert s.low is not None and s.high is not None
    there = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.high, strict=True)]
    back = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.low, strict=True)]
    return f'<polygon class="band f{s.color % len(LIGHT)}" points="{" ".join(there + back[::-1])}"/>'


def _legend(series: Sequence[Series], width: int) -> tuple[str, int]:
    """Legend entries in as many rows as needed, and the height of the rows."""
    out: list[str] = []
    x, y = 0, 14
    for s in series:
        entry = 29 + 7 * len(s.label) + 22  # 7 px per character is a generous mean of the fonts in STYLE
        if x and x + entry > width:
            x, y = 0, y + 20
        out.append(f'{_swatch(s, x, y)}<text x="{x + 29}" y="{y + 4}">{escape(s.label)}</text>')
        x += entry
    return "".join(out), y + 12


def _swatch(s: Series, x: int, y: int) -> str:
    dashed = " dashed" if s.dashed else ""
    return f'<line class="line s{s.color % len(LIGHT)}{dashed}" x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}"/>'
