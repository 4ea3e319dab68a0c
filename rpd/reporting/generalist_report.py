"""What an experiment with many robots showed: base, specialists and generalists on every robot and task, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from envs.errors import ConfigError
from rpd import page
from rpd.atomic import write_json, write_text
from rpd.charts import Chart, Series, figure
from rpd.generalist.film import FILM
from rpd.runs import column, distilled, read_json, read_run
from rpd.stats import paired_difference, wilson
from rpd.track import read_metrics

BASE, SPECIALIST, TUNED, SCRATCH = "base", "specialist", "fine-tuned base", "from nothing"
Row = tuple[str, str]
"""Task and robot."""


@dataclass
class Matrix:
    """Success by row (task, robot) and column (who acts)."""

    columns: list[str] = field(default_factory=lambda: [BASE, TUNED, SCRATCH, SPECIALIST])
    cells: dict[Row, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """`pooled` results; ``zero_shot`` is set where the robot was held out."""

    def set(self, row: Row, who: str, results: Sequence[dict[str, Any] | None], zero_shot: bool = False) -> None:
        """Enter results, pooled; none where there are none."""
        if found := [result for result in results if result]:
            self.cells.setdefault(row, {})[who] = pooled(found) | {"zero_shot": zero_shot}

    def mean(self, who: str, zero_shot: bool = False) -> dict[str, Any] | None:
        """All episodes of a column together: of the robots that were trained on, or of those held out."""
        own = [row[who] for row in self.cells.values() if who in row and row[who]["zero_shot"] == zero_shot]
        return pooled(own) if own else None


def pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several evaluations as one: success with its 95 % interval, mean time of the solved, and COMPASS's weighted travel time.

    The latter, the sum of the durations of the solved over the success rate, grows with the number of episodes; the mean over
    the evaluations is comparable with what is published per policy.
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
    """Write the page, and its numbers beside it as JSON.

    Args:
        paths: runs of `rpd distill`, and perhaps others on the same robots: of specialists, and of policies that learnt
            from the base or from nothing. All seeds of a kind count together.
        out: HTML file.

    Raises:
        ConfigError: none of the distillations is complete, or a file is damaged.
    """
    of_several = [p for p in paths if distilled(p)]
    complete = [(p, result) for p in of_several if (result := read_json(p / "result.json"))]
    generalists = [p for p, _ in complete]
    if not generalists:
        raise ConfigError(f"{', '.join(map(str, paths))}: not complete yet: continue with 'rpd distill --resume RUN'")
    results = {p.resolve().name if len(generalists) > 1 else "generalist": result for p, result in complete}
    matrix = _matrix(results, [read_run(p).summary for p in paths if p not in of_several])
    body = page.card_row(_cards(matrix, results))
    body += page.section("Success and time to success", _table(matrix))
    films = [page.video(p / FILM, f"{p.resolve().name}: every robot at once; green: solved") for p in generalists]
    body += page.section("Every robot", f'<div class="videos">{"".join(films)}</div>')
    body += page.section("Learning", _curves(generalists))
    body += page.section("What was stored", _stored(results))
    configs = [page.details(f"Configuration of {p.resolve().name}", (p / "config.yaml").read_text()) for p in generalists]
    body += page.section("Details", "".join(configs) + page.json_details("Machine", read_json(generalists[0] / "env.json")))
    tasks = list(dict.fromkeys(task for task, _ in matrix.cells))
    lead = f"{len(matrix.cells)} robots and tasks; {len(generalists)} generalist{'s' if len(generalists) > 1 else ''}"
    write_text(out, page.document(", ".join(tasks), lead, body))
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
            kind = SPECIALIST if result.get("base") else TUNED if result.get("init") else SCRATCH
            seeds.setdefault(((result["task"], result["robot"]), kind), []).append(result)
    for (row, kind), members in seeds.items():
        matrix.set(row, kind, [member["student"] for member in members])
        matrix.set(row, BASE, [member.get("base_eval") for member in members[:1]])  # the base has no seed
    used = {who for cells in matrix.cells.values() for who in cells}
    matrix.columns = [who for who in matrix.columns if who in used]
    return matrix


def _difference(result: dict[str, Any]) -> dict[str, Any]:
    """Generalist less specialist, over all robots and tasks, paired by episode."""
    pairs = [pair for cell in result["cells"] for pair in cell["outcomes"]]
    return vars(paired_difference([a for a, _ in pairs], [b for _, b in pairs]))


def _cards(matrix: Matrix, results: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    cards = []
    base = matrix.mean(BASE)
    for who in matrix.columns:
        if mean := matrix.mean(who):
            times = f", {mean['rate'] / base['rate']:.1f} × the base" if base and base["rate"] and who != BASE else ""
            cards.append((who.capitalize(), f"{mean['rate']:.0%}", page.rate_text(mean) + times, who in results))
        if who in results:
            paired = _difference(results[who])
            note = f"points {page.paired_text(paired)}, paired by episode"
            cards.append(("Over its specialists", f"{100 * paired['diff']:+.1f}", note, False))
        if held := matrix.mean(who, zero_shot=True):
            cards.append(("Zero-shot", f"{held['rate']:.0%}", f"{page.rate_text(held)}, robots held out", False))
    return cards


def _table(matrix: Matrix) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("task", "robot", *matrix.columns))
    rows = []
    for (task, robot), cells in sorted(matrix.cells.items()):
        columns = "".join(f"<td>{_cell(cells.get(who), who)}</td>" for who in matrix.columns)
        rows.append(f'<tr><td>{escape(task.rsplit("/", 1)[-1])}</td><td class="name">{escape(robot)}</td>{columns}</tr>')
    means = "".join(f"<td>{_cell(matrix.mean(who), who)}</td>" for who in matrix.columns)
    rows.append(f"<tr><td><b>all</b></td><td></td>{means}</tr>")
    note = (
        "k of n, 95 % Wilson interval; below, the mean time of the solved episodes and COMPASS's weighted travel time "
        "(sum of those times over the success rate). The last row leaves zero-shot cells out."
    )
    return (
        f'<div class="panel"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"<div class=small>{note}</div></div>"
    )


def _cell(result: dict[str, Any] | None, who: str) -> str:
    if result is None:
        return "–"
    kind = "teacher" if who in (BASE, TUNED, SCRATCH, SPECIALIST) else ""
    seconds, weighted = result["travel_time"], result["weighted_travel_time"]
    time = "" if seconds is None else f"{seconds:.1f} s · weighted {weighted:,.0f} s"
    text = f"{100 * result['rate']:.0f} % · {page.rate_text(result)}"
    note = " · ".join(part for part in ("zero-shot" if result.get("zero_shot") else "", time) if part)
    return f'<span class="{kind}">{page.whisker(result)}</span>{escape(text)}<div class=small>{escape(note)}</div>'


def _curves(runs: Sequence[Path]) -> str:
    charts = []
    for title, metric, percent in (
        ("Success over all robots, after each stage", "eval/success", True),
        ("Divergence from the specialists", "distill/divergence", False),
    ):
        lines = [
            Series(p.resolve().name, *column(read_metrics(p), metric), color=i)
            for i, p in enumerate(runs)
        ]  # fmt: skip
        charts.append(Chart(title, [s for s in lines if len(s.x)], x_label="gradient steps", percent=percent))
    drawn = [chart for chart in charts if not chart.empty]
    return f'<div class="panel">{figure(drawn, cols=2)}</div>' if drawn else ""


def _stored(results: dict[str, dict[str, Any]]) -> str:
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
