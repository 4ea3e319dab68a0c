"""Report of an experiment with many robots: base, specialists and generalists on every robot and task, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rpd.core.files import write_json, write_text
from rpd.core.statistics import paired_difference, wilson
from rpd.envs.errors import ConfigError
from rpd.reporting import html as page
from rpd.reporting.charts import Chart, Series, figure
from rpd.reporting.curves import column
from rpd.reporting.report_file import mark
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
    of_several = [p for p in paths if is_generalist_run(p)]
    complete = [(p, result) for p in of_several if (result := read_json(p / "result.json"))]
    generalists = [p for p, _ in complete]
    if not generalists:
        raise ConfigError(f"{', '.join(map(str, paths))}: not complete yet: continue with 'rpd generalist --resume RUN'")
    results = {p.resolve().name if len(generalists) > 1 else "generalist": result for p, result in complete}
    matrix = _matrix(results, [read_run(p).summary for p in paths if p not in of_several])
    body = page.card_row(_cards(matrix, results))
    body += page.section("Success and time to success", _table(matrix))
    films = [page.video(p / FILM, f"{p.resolve().name}: every robot at once; green: solved") for p in generalists]
    body += page.section("Every robot", Markup('<div class="videos">{}</div>').format(page.EMPTY.join(films)))
    body += page.section("Learning", _curves(generalists))
    body += page.section("What was stored", _stored(results))
    configs = [page.details(f"Configuration of {p.resolve().name}", (p / "config.yaml").read_text()) for p in generalists]
    machine = page.json_details("Machine", read_json(generalists[0] / "env.json"))
    body += page.section("Details", page.EMPTY.join([*configs, machine]))
    tasks = list(dict.fromkeys(task for task, _ in matrix.cells))
    plural = "s" if len(generalists) > 1 else ""
    lead = Markup("{} robots and tasks; {} generalist{}").format(len(matrix.cells), len(generalists), plural)
    write_text(out, page.document(", ".join(tasks), lead, body) + mark(paths, out))
    write_json(out.with_suffix(".json"), _numbers(matrix, results))
    return out


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


def _cards(matrix: Matrix, results: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    cards = []
    base = matrix.mean(BASE)
    for who in matrix.columns:
        if mean := matrix.mean(who):
            times = f", {mean['rate'] / base['rate']:.1f} × the base" if base and base["rate"] and who != BASE else ""
            below = base is not None and mean["rate"] < base["rate"]
            cards.append((who.capitalize(), f"{mean['rate']:.0%}", page.rate_text(mean) + times, who in results and not below))
        if who in results:
            paired = _difference(results[who])
            note = f"points {page.paired_text(paired)}, paired by episode"
            cards.append(("Over its specialists", f"{100 * paired['diff']:+.1f}", note, False))
        if held := matrix.mean(who, zero_shot=True):
            cards.append(("Zero-shot", f"{held['rate']:.0%}", f"{page.rate_text(held)}, robots held out", False))
    return cards


def _table(matrix: Matrix) -> Markup:
    head = page.each("<th>{}</th>", ("task", "robot", *matrix.columns))
    rows = []
    for (task, robot), cells in sorted(matrix.cells.items()):
        columns = page.each("<td>{}</td>", [_cell(cells.get(who), who) for who in matrix.columns])
        rows.append(Markup('<td>{}</td><td class="name">{}</td>{}').format(task.rsplit("/", 1)[-1], robot, columns))
    means = page.each("<td>{}</td>", [_cell(matrix.mean(who), who) for who in matrix.columns])
    rows.append(Markup("<td><b>all</b></td><td></td>{}").format(means))
    note = (
        "k of n, 95 % Wilson interval; below, the mean time of the solved episodes and COMPASS's weighted travel time "
        "(sum of those times over the success rate). The last row leaves zero-shot cells out."
    )
    return page.panel(page.rows_table(head, rows) + Markup("<div class=small>{}</div>").format(note))


def _cell(result: dict[str, Any] | None, who: str) -> Markup:
    if result is None:
        return Markup("–")
    kind = "teacher" if who in (BASE, TUNED, SCRATCH, SPECIALIST) else ""
    seconds, weighted = result["travel_time"], result["weighted_travel_time"]
    time = "" if seconds is None else f"{seconds:.1f} s · weighted {weighted:,.0f} s"
    text = f"{100 * result['rate']:.0f} % · {page.rate_text(result)}"
    note = " · ".join(part for part in ("zero-shot" if result.get("zero_shot") else "", time) if part)
    cell = Markup('<span class="{}">{}</span>{}<div class=small>{}</div>')
    return cell.format(kind, page.whisker(result), text, note)


def _curves(runs: Sequence[Path]) -> Markup:
    charts = []
    for title, metric, percent in (
        ("Success over all robots, after each stage", "eval/success_once", True),
        ("Divergence from the specialists", "distill/divergence", False),
    ):
        lines = [
            Series(p.resolve().name, *column(read_metrics(p), metric), color=i)
            for i, p in enumerate(runs)
        ]  # fmt: skip
        charts.append(Chart(title, [s for s in lines if len(s.x)], x_label="gradient steps", percent=percent))
    drawn = [chart for chart in charts if not chart.empty]
    return page.panel(figure(drawn, cols=2)) if drawn else page.EMPTY


def _stored(results: dict[str, dict[str, Any]]) -> Markup:
    rows = []
    for name, result in results.items():
        for i, stage in enumerate(result["data"]["stages"]):
            who = "specialists" if i == 0 else f"generalist, round {i}"
            size = f"{stage['bytes'] / stage['frames']:.0f}"
            solved = f"{stage['solved']}/{stage['episodes']}"
            rows.append((name, who, f"{stage['frames']:,}", size, f"{stage['bytes'] / 1e6:.1f} MB", solved))
    return page.table(("run", "who played", "frames", "bytes per frame", "in all", "episodes solved"), rows)


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
