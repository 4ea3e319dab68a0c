"""Report of an experiment with many robots: base, specialists and generalists on every robot and task, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpd.core.files import write_json, write_text
from rpd.core.statistics import paired_difference, wilson
from rpd.envs.errors import ConfigError
from rpd.reporting.charts import Chart, Series
from rpd.reporting.curves import column
from rpd.reporting.page import Card, Details, Video, json_details, render
from rpd.reporting.report_file import mark
from rpd.reporting.text import paired_text, rate_text
from rpd.runs.paths import FILM, is_generalist_run
from rpd.runs.reader import read_json, read_run
from rpd.runs.tracker import read_metrics

BASE, SPECIALIST, TUNED, SCRATCH = "base", "specialist", "fine-tuned base", "from nothing"
Row = tuple[str, str]
"""Task and robot."""


@dataclass
class Matrix:
    """Success by row (task, robot) and column (policy)."""

    columns: list[str] = field(default_factory=lambda: [BASE, TUNED, SCRATCH, SPECIALIST])
    cells: dict[Row, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """`pooled` results; ``zero_shot`` marks robots that were held out."""

    def set(self, row: Row, who: str, results: Sequence[dict[str, Any] | None], zero_shot: bool = False) -> None:
        """Set a cell to pooled results; no results, no cell."""
        if found := [result for result in results if result]:
            self.cells.setdefault(row, {})[who] = pooled(found) | {"zero_shot": zero_shot}

    def mean(self, who: str, zero_shot: bool = False) -> dict[str, Any] | None:
        """Pooled episodes of a column: of the training robots, or of the held-out ones."""
        own = [row[who] for row in self.cells.values() if who in row and row[who]["zero_shot"] == zero_shot]
        return pooled(own) if own else None


def pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pool several evaluations: success with its 95 % interval, mean time to success, and COMPASS's weighted travel time.

    The weighted travel time (sum of the durations of solved episodes over the success rate) grows with the number of episodes,
    so the mean over the evaluations is reported, which is comparable with published values per policy.
    """
    k, n = sum(r["successes"] for r in results), sum(r["n"] for r in results)
    timed = [r for r in results if r.get("travel_time") is not None]
    solved = sum(r["successes"] for r in timed)
    return {
        "successes": k,
        "n": n,
        "rate": k / n,
        "interval": list(wilson(k, n)),
        "travel_time": sum(r["travel_time"] * r["successes"] for r in timed) / solved if solved else None,
        "weighted_travel_time": sum(r["weighted_travel_time"] for r in timed) / len(timed) if timed else None,
    }


def write(paths: Sequence[Path], out: Path) -> Path:
    """Write the page, and its numbers as JSON in the same folder.

    Args:
        paths: runs of `rpd generalist`, and optionally others on the same robots: specialists, and policies trained from the
            base or from scratch. All seeds of a kind are pooled.
        out: HTML file.

    Raises:
        ConfigError: no generalist run is complete, or a file is damaged.
    """
    generalists, results, matrix = _read(paths)
    configs = [Details(f"Configuration of {p.resolve().name}", (p / "config.yaml").read_text()) for p in generalists]
    page = render(
        "generalist.html",
        title=", ".join(dict.fromkeys(task for task, _ in matrix.cells)),
        names=list(results),
        cards=_cards(matrix, results),
        columns=matrix.columns,
        rows=[(task.rsplit("/", 1)[-1], robot, cells) for (task, robot), cells in sorted(matrix.cells.items())],
        means={who: matrix.mean(who) for who in matrix.columns},
        videos=[Video(p / FILM, f"{p.resolve().name}: every robot at once; green: solved") for p in generalists],
        charts=learning_charts(generalists),
        stored=_stored(results),
        details=[*configs, json_details("Machine", read_json(generalists[0] / "env.json"))],
        mark=mark(paths, out),
    )
    write_text(out, page)
    write_json(out.with_suffix(".json"), _numbers(matrix, results))
    return out


def rows_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the results of the same runs as `write`, flat: one row per task, robot and policy.

    Raises:
        ConfigError: see `write`.
    """
    matrix = _read(paths)[2]
    rows = []
    for (task, robot), cells in sorted(matrix.cells.items()):
        for who in matrix.columns:
            if cell := cells.get(who):
                low, high = cell["interval"]
                numbers = {key: value for key, value in cell.items() if key != "interval"}
                rows.append({"task": task, "robot": robot, "method": who, **numbers, "low": low, "high": high})
    return rows


def _read(paths: Sequence[Path]) -> tuple[list[Path], dict[str, dict[str, Any]], Matrix]:
    """Complete generalist runs, their results by name, and the matrix of all runs.

    Raises:
        ConfigError: none is complete.
    """
    of_several = [p for p in paths if is_generalist_run(p)]
    complete = [(p, result) for p in of_several if (result := read_json(p / "result.json"))]
    generalists = [p for p, _ in complete]
    if not generalists:
        raise ConfigError(f"{', '.join(map(str, paths))}: not complete yet: continue with 'rpd generalist --resume RUN'")
    results = {p.resolve().name if len(generalists) > 1 else "generalist": result for p, result in complete}
    return generalists, results, _matrix(results, [read_run(p).summary for p in paths if p not in of_several])


def _matrix(results: dict[str, dict[str, Any]], others: Sequence[dict[str, Any]]) -> Matrix:
    matrix = Matrix()
    for name, result in results.items():
        matrix.columns.append(name)
        for cell in result["cells"]:
            row = (cell["task"], cell["robot"])
            matrix.set(row, BASE, [cell["base"]])
            matrix.set(row, SPECIALIST, [cell["specialist"]])
            matrix.set(row, name, [cell["generalist"]])
        for cell in result["held_out"]:
            row = (cell["task"], cell["robot"])
            matrix.set(row, BASE, [cell["base"]], zero_shot=True)
            matrix.set(row, name, [cell["generalist"]], zero_shot=True)
    seeds: dict[tuple[Row, str], list[dict[str, Any]]] = {}
    for result in others:
        if result.get("student"):
            kind = SPECIALIST if result.get("base") else TUNED if result.get("pretrained_path") else SCRATCH
            seeds.setdefault(((result["task"], result["robot"]), kind), []).append(result)
    for (row, kind), members in seeds.items():
        matrix.set(row, kind, [member["student"] for member in members])
        matrix.set(row, BASE, [member.get("base_eval") for member in members[:1]])  # the base has no seed
    used = {who for cells in matrix.cells.values() for who in cells}
    matrix.columns = [who for who in matrix.columns if who in used]
    return matrix


def _difference(result: dict[str, Any]) -> dict[str, Any]:
    """Generalist minus specialist, over all robots and tasks, paired by episode."""
    pairs = [pair for cell in result["cells"] for pair in cell["outcomes"]]
    return vars(paired_difference([a for a, _ in pairs], [b for _, b in pairs]))


def _cards(matrix: Matrix, results: dict[str, dict[str, Any]]) -> list[Card]:
    cards = []
    base = matrix.mean(BASE)
    for who in matrix.columns:
        if mean := matrix.mean(who):
            times = f", {mean['rate'] / base['rate']:.1f} × the base" if base and base["rate"] and who != BASE else ""
            below = base is not None and mean["rate"] < base["rate"]
            cards.append(Card(who.capitalize(), f"{mean['rate']:.0%}", rate_text(mean) + times, who in results and not below))
        if who in results:
            paired = _difference(results[who])
            note = f"points {paired_text(paired)}, paired by episode"
            cards.append(Card("Over its specialists", f"{100 * paired['diff']:+.1f}", note))
        if held := matrix.mean(who, zero_shot=True):
            cards.append(Card("Zero-shot", f"{held['rate']:.0%}", f"{rate_text(held)}, robots held out"))
    return cards


def learning_charts(runs: Sequence[Path]) -> list[Chart]:
    """Success and divergence after each stage of generalist runs."""
    charts = []
    for title, metric, percent in (
        ("Success over all robots, after each stage", "eval/success_once", True),
        ("Divergence from the specialists", "distill/divergence", False),
    ):
        lines = [Series(p.resolve().name, *column(read_metrics(p), metric), index=i) for i, p in enumerate(runs)]
        charts.append(Chart(title, lines, x_label="gradient steps", percent=percent))
    return [chart for chart in charts if chart.drawn]


def _stored(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, result in results.items():
        for i, stage in enumerate(result["data"]["stages"]):
            who = "specialists" if i == 0 else f"generalist, round {i}"
            size = f"{stage['bytes'] / stage['frames']:.0f}"
            solved = f"{stage['solved']}/{stage['episodes']}"
            rows.append((name, who, f"{stage['frames']:,}", size, f"{stage['bytes'] / 1e6:.1f} MB", solved))
    return rows


def _numbers(matrix: Matrix, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cells = [{"task": task, "robot": robot, **columns} for (task, robot), columns in sorted(matrix.cells.items())]
    return {
        "schema_version": 1,
        "cells": cells,
        "means": {who: matrix.mean(who) for who in matrix.columns},
        "zero_shot": {who: mean for who in matrix.columns if (mean := matrix.mean(who, zero_shot=True))},
        "generalist_less_specialist": {name: _difference(result) for name, result in results.items()},
        "bytes_per_frame": {name: result["data"]["bytes_per_frame"] for name, result in results.items()},
    }
