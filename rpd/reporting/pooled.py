"""Results of runs with the seeds of each method pooled: for the report's table and for CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rpd.core.bootstrap import pooled_rate
from rpd.core.iqm import interquartile_interval, interquartile_mean
from rpd.envs.errors import ConfigError
from rpd.reporting.curves import in_order, labels
from rpd.reporting.run_charts import by_panel

ALL = "all"
"""Name of the row that pools several tasks."""


@dataclass(frozen=True)
class Pooled:
    """One method in one task, or in all of them."""

    task: str
    """Task, reward and observation mode."""
    method: str
    seeds: int
    """Number of runs."""
    n: int
    """Episodes of the final evaluations of all runs."""
    successes: int
    rate: float
    """Successes over episodes."""
    interval: tuple[float, float]
    """95 % interval of `rate` over seeds and episodes, see `rpd.core.bootstrap`."""
    mean: float
    """Mean of the success rates of the runs."""
    lowest: float
    highest: float
    iqm: float
    """Interquartile mean of the success rates of the runs, see `rpd.core.iqm`."""
    iqm_interval: tuple[float, float] | None
    """95 % bootstrap interval of `iqm`; None for a task with a single run."""
    mean_return: float
    steps: float
    """Mean per run, environment steps."""
    teacher_queries: float | None
    """Mean per run; None if a run has none on record."""


def pooled(summaries: Sequence[dict[str, Any]]) -> list[Pooled]:
    """Pool the complete runs of each method and task, methods in the order of the charts; with several tasks also over them.

    Args:
        summaries: `rpd.runs.reader.Run.summary` objects; incomplete runs are left out.
    """
    panels = by_panel([s for s in summaries if s.get("student")])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task, members in panels.items():
        named = labels(members)
        for method in in_order(named):
            groups[task, method] = [s for s, n in zip(members, named, strict=True) if n == method]
    rows = [_row(task, method, [members]) for (task, method), members in groups.items()]
    for method in in_order([method for _, method in groups]):
        strata = [members for (_, name), members in groups.items() if name == method]
        if len(strata) == len(panels) > 1:  # a method that lacks a task cannot be compared over all tasks
            rows.append(_row(ALL, method, strata))
    return rows


def csv_text(summaries: Sequence[dict[str, Any]]) -> str:
    """Return the rows of `pooled` as CSV with a header; intervals in two columns each, empty where there is no value.

    Raises:
        ConfigError: no run is complete.
    """
    rows = pooled(summaries)
    if not rows:
        raise ConfigError("no table to write: no run is complete")
    return table_text([_flat(row) for row in rows])


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows with the same keys as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(row: Pooled) -> dict[str, Any]:
    values = dict(vars(row))
    for name in ("interval", "iqm_interval"):
        low, high = values[name] or (None, None)
        values |= {f"{name.removesuffix('interval')}low": low, f"{name.removesuffix('interval')}high": high}
        del values[name]
    return values


def _row(task: str, method: str, strata: Sequence[Sequence[dict[str, Any]]]) -> Pooled:
    runs = [s for members in strata for s in members]
    counts = [[(s["student"]["successes"], s["student"]["n"]) for s in members] for members in strata]
    every = [s["student"]["rate"] for s in runs]
    success = pooled_rate(counts)
    queries = [s.get("teacher_queries") for s in runs]
    return Pooled(
        task=task,
        method=method,
        seeds=len(runs),
        n=sum(n for members in counts for _, n in members),
        successes=sum(k for members in counts for k, _ in members),
        rate=success.value,
        interval=(success.low, success.high),
        mean=sum(every) / len(every),
        lowest=min(every),
        highest=max(every),
        iqm=interquartile_mean(every),
        iqm_interval=interquartile_interval(counts),
        mean_return=sum(s["student"]["mean_return"] for s in runs) / len(runs),
        steps=sum(s["steps"] for s in runs) / len(runs),
        teacher_queries=None if None in queries else sum(queries) / len(runs),  # type: ignore[arg-type]
    )
