"""Cells of the results' tables that pool training seeds, with intervals over seeds and episodes."""

from __future__ import annotations

import math
from typing import Any

from rpd.core.bootstrap import Counts, pooled_rate, probability_of_improvement, rate_difference, steps_to_rate
from rpd.core.iqm import interquartile_interval, interquartile_mean

Runs = list[dict[str, Any]]
COMPARISON = (
    "",
    "probability of improvement (95 %)",
    "difference, points (95 %)",
    "interquartile mean, % (95 %): RPD",
    "other",
)


def successes(runs: Runs) -> str:
    """Successes of all episodes; empty without runs."""
    return f"{sum(k for k, _ in counts(runs))}/{sum(n for _, n in counts(runs))}" if runs else ""


def interval(runs: Runs) -> str:
    """Interval of the pooled success in percent."""
    rate = pooled_rate([counts(runs)])
    return f"({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def rate(runs: Runs) -> str:
    """Successes and interval; empty without runs."""
    return f"{successes(runs)} {interval(runs)}" if runs else ""


def steps(runs: Runs, unit: str = "") -> str:
    """Thousands of steps by which half of the runs have 50 % success, with its interval; empty without runs."""
    if not runs:
        return ""
    reached = steps_to_rate([[(step, k, n) for step, _, k, n in r["curve"]] for r in runs], 0.5)
    value, low, high = (f"> {reached.within / 1000:.0f}" if math.isinf(s) else f"{s / 1000:.0f}" for s in reached[:3])
    return f"{value}{unit}" if low == high else f"{value}{unit} ({low}–{high})"


def comparison(pairs: list[tuple[Runs, Runs]]) -> list[str]:
    """Cells of a row with the columns `COMPARISON`, from the runs of both methods per task and teacher."""
    mine, other = ([counts(pair[i]) for pair in pairs] for i in (0, 1))
    better, points = probability_of_improvement(mine, other), rate_difference(mine, other)
    return [
        f"{better.value:.2f} ({better.low:.2f}–{better.high:.2f})",
        f"{100 * points.value:+.1f} ({100 * points.low:+.1f} to {100 * points.high:+.1f})",
        *(_middle(runs) for runs in (mine, other)),
    ]


def counts(runs: Runs) -> list[Counts]:
    """Successes and episodes of the final evaluation of each run."""
    return [(r["student"]["successes"], r["student"]["n"]) for r in runs]


def _middle(tasks: list[list[Counts]]) -> str:
    low, high = interquartile_interval(tasks) or (math.nan, math.nan)
    mean = interquartile_mean([k / n for runs in tasks for k, n in runs])
    return f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"
