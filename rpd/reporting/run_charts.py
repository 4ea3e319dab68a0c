"""Learning curves, diagnostics and the division of time of runs, one line per method with its seeds pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rpd.envs.errors import ConfigError
from rpd.reporting.charts import COLORS, Chart, Series
from rpd.reporting.curves import band, column, in_order, labels
from rpd.runs.reader import Run

TEACHER_COLOR = 5
"""Gray: a teacher does not learn."""

# title, metric, x axis, whether it is a fraction
LEARNING = (
    ("Success, deterministic policy", "eval/success_once", "step", True),
    ("Success by teacher queries", "eval/success_once", "teacher/queries", True),
    ("Success while collecting", "rollout/success", "step", True),
    ("Return while collecting", "rollout/ep_return", "step", False),
    ("Episode length", "rollout/ep_length", "step", False),
    ("Distillation weight", "distill/weight", "step", False),
)
DIAGNOSTICS = (
    ("Distillation gate, mean", "distill/gate", "step", True),
    ("Divergence from the teacher", "distill/divergence", "step", False),
    ("Behavior cloning loss", "bc/loss", "step", False),
    ("Policy loss", "ppo/policy_loss", "step", False),
    ("Value loss", "ppo/value_loss", "step", False),
    ("Explained variance of the value", "ppo/explained_variance", "step", False),
    ("KL(old || new) per update", "ppo/approx_kl", "step", False),
    ("Clipped fraction", "ppo/clip_fraction", "step", False),
    ("Standard deviation of the policy", "ppo/std", "step", False),
    ("Entropy", "ppo/entropy", "step", False),
    ("Environment steps per second", "time/fps", "step", False),
)
TIMES = (
    ("environment", "time/env"),
    ("teacher", "time/teacher"),
    ("inference", "time/inference"),
    ("update", "time/update"),
    ("state estimator", "time/state_estimator"),
)
Share = tuple[str, float, str]
"""Part of the time: name, seconds, color."""


def metric_charts(curves: Sequence[tuple[str, str, str, bool]], runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Return the charts of metrics that were logged: a line per method, its mean over seeds with a band of the extremes.

    Args:
        curves: `LEARNING` or `DIAGNOSTICS`.
        runs: the runs.
        names: label of the method of each run.
    """
    order = in_order(names)
    charts = []
    for title, metric, by, percent in curves:
        series = []
        for i, label in enumerate(order):
            members = [r for r, n in zip(runs, names, strict=True) if n == label]
            seeds = [column(r.metrics, metric, by) for r in members]
            line = band(label, [c for c in seeds if any(c[0])], i)  # without a teacher there are no queries to plot over
            if metric == "eval/success_once" and len(members) == 1:
                line = _with_interval(line, members[0], by)
            series.append(line)
        if metric == "eval/success_once":
            series += _teacher_lines([r.summary for r in runs], names, order, series)
        charts.append(Chart(title, series, "environment steps" if by == "step" else "teacher queries", percent))
    return [chart for chart in charts if chart.drawn]


def success_charts(summaries: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return success over environment steps from result.json objects.

    One chart per task, reward and observation mode; one line per method, its mean over seeds with a band from the lowest to
    the highest; teachers as dashed lines.

    Args:
        summaries: contents of result.json files; ``reward``, ``obs_mode`` and ``label`` are optional.
    """
    panels = by_panel(summaries)
    named = {title: labels(members) for title, members in panels.items()}
    order = in_order([n for names in named.values() for n in names])
    charts = []
    for title, members in panels.items():
        lines = []
        for label in in_order(named[title]):
            seeds = [s for s, n in zip(members, named[title], strict=True) if n == label]
            curves = [([p[0] for p in s["curve"]], [p[1] for p in s["curve"]]) for s in seeds]
            lines.append(band(label, curves, order.index(label)))
        charts.append(Chart(title, lines + _teacher_lines(members, named[title], order, lines), percent=True))
    return charts


def curves_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the summaries of runs for `success_charts`, complete or not, without those that have no evaluation.

    Raises:
        ConfigError: no run has been evaluated while it trained.
    """
    logged = [(r, column(r.metrics, "eval/success_once")) for r in runs]
    found = [r.summary | {"curve": r.summary.get("curve") or list(zip(*curve, strict=True))} for r, curve in logged]
    if drawn := [s for s in found if s["curve"]]:
        return drawn
    raise ConfigError(f"no learning curve to draw: {', '.join(str(r.path) for r in runs)}: no evaluation yet")


def by_panel(summaries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group summaries by task, reward and observation mode; the keys are titles."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for s in summaries:
        panels.setdefault(" · ".join(str(s[k]) for k in ("task", "reward", "obs_mode") if s.get(k)), []).append(s)
    return panels


def times(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, list[Share]]]:
    """Return where the time of each method went; methods without logged times are left out."""
    found = []
    for label in in_order(names):
        members = [r for r, n in zip(runs, names, strict=True) if n == label]
        seconds = [sum(sum(column(r.metrics, metric)[1]) for r in members) for _, metric in TIMES]
        if sum(seconds) > 0:
            found.append((label, [(part, s, color) for (part, _), s, color in zip(TIMES, seconds, COLORS, strict=False)]))
    return found


def _teacher_lines(
    summaries: Sequence[dict[str, Any]], names: Sequence[str], order: Sequence[str], lines: Sequence[Series]
) -> list[Series]:
    """A dashed line at the success rate of each teacher, as long as the longest line.

    A single teacher is gray; several have the colors of their students.
    """
    end = max((s.x[-1] for s in lines if len(s.x)), default=0.0)
    pupils: dict[tuple[str, str], tuple[str, float]] = {}  # label of the student, and the teacher's success rate
    for s, name in sorted(zip(summaries, names, strict=True), key=lambda sn: order.index(sn[1])):
        if s.get("teacher_eval"):
            pupils.setdefault((s["task"], s["teacher"]), (name, s["teacher_eval"]["rate"]))
    if not end:
        return []
    if len(pupils) == 1:
        return [Series("teacher", [0, end], [r, r], index=TEACHER_COLOR, dashed=True) for _, r in pupils.values()]
    return [Series(f"teacher of {name}", [0, end], [r, r], index=order.index(name), dashed=True) for name, r in pupils.values()]


def _with_interval(line: Series, run: Run, by: str) -> Series:
    """Evaluations of a single run with their Wilson intervals, if all were logged."""
    (_, low), (_, high) = column(run.metrics, "eval/success_once_lo", by), column(run.metrics, "eval/success_once_hi", by)
    if len(low) != len(line.x) or len(high) != len(line.x):
        return line
    return replace(line, low=low, high=high)
