"""One self-contained HTML file per run, comparison or evaluation: numbers, curves and videos, nothing to install."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rpd import page
from rpd.atomic import write_text
from rpd.charts import Chart, Series, figure, legend, line_chart, stacked_bar
from rpd.runs import Run, band, column, distilled, in_order, labels, read_json, read_run

TEACHER_COLOR = 5
"""Grey: a teacher does not learn."""

# title, metric, x axis, whether it is a fraction
LEARNING = (
    ("Success, deterministic policy", "eval/success", "step", True),
    ("Success by teacher queries", "eval/success", "teacher/queries", True),
    ("Success while collecting", "rollout/success", "step", True),
    ("Return while collecting", "rollout/return", "step", False),
    ("Episode length", "rollout/length", "step", False),
    ("Distillation weight", "distill/weight", "step", False),
)
DIAGNOSTICS = (
    ("Distillation gate, mean", "distill/gate", "step", True),
    ("Divergence from the teacher", "distill/divergence", "step", False),
    ("Policy loss", "ppo/policy_loss", "step", False),
    ("Value loss", "ppo/value_loss", "step", False),
    ("Explained variance of the value", "ppo/explained_variance", "step", False),
    ("KL(old || new) per update", "ppo/approx_kl", "step", False),
    ("Clipped fraction", "ppo/clip_fraction", "step", False),
    ("Standard deviation of the policy", "ppo/std", "step", False),
    ("Entropy", "ppo/entropy", "step", False),
    ("Environment steps per second", "time/sps", "step", False),
)
TIMES = (
    ("environment", "time/env"),
    ("teacher", "time/teacher"),
    ("inference", "time/inference"),
    ("update", "time/update"),
    ("perception", "time/perception"),
)


def write(runs: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of several beside each other; with one of `rpd distill` among them, a matrix of robots.

    Args:
        runs: run folders.
        out: HTML file; by default report.html in the run's folder, or in the folder that holds all runs.

    Returns:
        Where the report is.

    Raises:
        ConfigError: a folder that is not a run, or a damaged file in it.
    """
    paths = [Path(runs)] if isinstance(runs, (str, Path)) else [Path(p) for p in runs]
    folders = [read_run(p) for p in paths]
    if out is None:
        out = (paths[0] if len(paths) == 1 else Path(os.path.commonpath([p.resolve().parent for p in paths]))) / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    if any(map(distilled, paths)):
        from rpd.generalist.report import write as write_matrix

        return write_matrix(paths, out)
    names = labels([r.summary for r in folders])
    tasks = sorted({str(r.summary.get("task") or "unknown task") for r in folders})
    title = ", ".join(tasks)
    if len(folders) == 1:
        lead = f"{names[0]} run <b>{escape(folders[0].path.resolve().name)}</b>" + _of_teacher(folders[0].summary)
        body = _cards(folders[0].summary)
    else:
        lead = f"{len(folders)} runs: {escape(', '.join(in_order(names)))}"
        body = ""
    body += page.section("Results", f'<div class="panel">{_table(folders, names)}</div>')
    body += page.section("Episodes", _videos(folders) + _strips(folders))
    body += page.section("Learning curves", _curves(LEARNING, folders, names))
    body += page.section("Diagnostics", _curves(DIAGNOSTICS, folders, names))
    body += page.section("Where the time goes", _times(folders, names))
    body += page.section("Details", "".join(_details(r) for r in folders))
    write_text(out, page.document(title, lead, body))
    return out


def write_evaluation(folder: Path) -> Path:
    """Write report.html of one evaluation, beside its eval.json."""
    result = read_json(folder / "eval.json")
    cards = [
        ("Success", f"{result['rate']:.0%}", page.rate_text(result), False),
        ("Mean return", f"{result['mean_return']:.2f}", "undiscounted", False),
        ("Mean length", f"{result['mean_length']:.0f}", "control steps", False),
        *(
            [("Solved in", f"{seconds:.1f} s", f"mean; weighted travel time {result['weighted_travel_time']:,.0f} s", False)]
            if (seconds := result.get("travel_time"))
            else []
        ),
    ]
    body = page.card_row(cards)
    if "tasks" in result:
        rows = [(row["task"], row["instruction"], page.rate_text(row)) for row in result["tasks"]]
        body += page.section("Tasks", page.table(("task", "instruction", "success (95 %)"), rows))
    body += page.section("Every episode, in the order of its seed", f'<div class="panel">{page.strip(folder)}</div>')
    films = [(folder / "grid.mp4", "green: solved")]
    films += [(path, f"{path.stem}, green: solved") for path in sorted((folder / "videos").glob("*.mp4"))]
    if videos := [page.video(path, caption) for path, caption in films if path.exists()]:
        body += page.section("Video", "".join(videos))
    info: dict[str, Any] = {k: result[k] for k in ("time", "versions", "git", "machine") if k in result}
    body += page.section("Details", page.json_details("Versions and machine", info))
    write_text(folder / "report.html", page.document(result["task"], f"evaluation of <b>{escape(result['policy'])}</b>", body))
    return folder / "report.html"


def figure_svg(summaries: Sequence[dict[str, Any]], cols: int = 3) -> str:
    """Draw success over environment steps from result.json objects, as a complete SVG file for a README.

    One chart per task, reward and kind of observation; one line per kind of run with its mean over seeds and a band
    from the lowest to the highest; teachers as dashed lines.

    Args:
        summaries: contents of result.json files; ``reward``, ``obs`` and ``label`` are optional.
        cols: charts per row.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    for s in summaries:
        panels.setdefault(" · ".join(str(s[k]) for k in ("task", "reward", "obs") if s.get(k)), []).append(s)
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
    return figure(charts, min(cols, len(charts)))


def _teacher_lines(
    summaries: Sequence[dict[str, Any]], names: Sequence[str], order: Sequence[str], lines: Sequence[Series]
) -> list[Series]:
    """A dashed line at the success rate of each teacher, as long as the longest line.

    One teacher is grey; of several, each has the colour of those who learn from it.
    """
    end = max((s.x[-1] for s in lines if len(s.x)), default=0.0)
    pupils: dict[tuple[str, str], tuple[str, float]] = {}  # who learns from it, and its success rate
    for s, name in sorted(zip(summaries, names, strict=True), key=lambda sn: order.index(sn[1])):
        if s.get("teacher_eval"):
            pupils.setdefault((s["task"], s["teacher"]), (name, s["teacher_eval"]["rate"]))
    if not end:
        return []
    if len(pupils) == 1:
        return [Series("teacher", [0, end], [r, r], color=TEACHER_COLOR, dashed=True) for _, r in pupils.values()]
    return [Series(f"teacher of {name}", [0, end], [r, r], color=order.index(name), dashed=True) for name, r in pupils.values()]


def _of_teacher(summary: dict[str, Any]) -> str:
    return f", teacher <b>{escape(str(summary['teacher']))}</b>" if summary.get("teacher") else ""


def _cards(s: dict[str, Any]) -> str:
    cards = []
    if s.get("student"):
        cards.append(("Student", f"{s['student']['rate']:.0%}", page.rate_text(s["student"]), True))
    if s.get("teacher_eval"):
        cards.append(("Teacher", f"{s['teacher_eval']['rate']:.0%}", page.rate_text(s["teacher_eval"]), False))
    if s.get("base_eval"):
        cards.append(("Base", f"{s['base_eval']['rate']:.0%}", page.rate_text(s["base_eval"]), False))
    for name, p in (("teacher", s.get("paired")), ("base", s.get("base_paired"))):
        if p:
            cards.append(
                (f"Over its {name}", f"{100 * p['diff']:+.0f}", f"points {page.paired_text(p)}, paired by seed", False)
            )
    cards.append(("Environment steps", page.count(s["steps"]), f"seed {s['seed']}" if s.get("seed") is not None else "", False))
    if s.get("teacher_queries"):
        cards.append(("Teacher queries", page.count(s["teacher_queries"]), "labelled observations", False))
    if s.get("wall_s"):
        cards.append(("Wall time", page.duration(s["wall_s"]), "", False))
    return page.card_row(cards)


def _table(runs: Sequence[Run], names: Sequence[str]) -> str:
    heads = (
        "",
        "seed",
        "success (95 % interval)",
        "points over its teacher",
        "return",
        "steps",
        "teacher queries",
        "wall time",
    )
    head = "".join(f"<th{' class=n' if i not in (0, 2, 3) else ''}>{h}</th>" for i, h in enumerate(heads))
    order = in_order(names)
    rows = []
    for run, name in sorted(zip(runs, names, strict=True), key=lambda rn: (order.index(rn[1]), rn[0].summary.get("seed") or 0)):
        s = run.summary
        p = s.get("paired")
        paired = f"{100 * p['diff']:+.0f} <span class=small>{page.paired_text(p)}</span>" if p else "–"
        cells = [page.count(s["steps"]), page.count(s.get("teacher_queries")), page.duration(s.get("wall_s"))]
        rows.append(_row("", name, s.get("seed"), s.get("student"), paired, cells))
    teachers = {
        (s.get("task"), s.get("teacher")): s["teacher_eval"] for s in (r.summary for r in runs) if s.get("teacher_eval")
    }
    for (_, teacher), result in teachers.items():
        rows.append(_row("teacher", f"teacher {teacher}", None, result, "", ["", "", ""]))
    bases = {(s["task"], s.get("robot"), s["base"]): s["base_eval"] for s in (r.summary for r in runs) if s.get("base_eval")}
    for (_, robot, base), result in bases.items():
        rows.append(_row("teacher", f"base {base} on {robot}", None, result, "", ["", "", ""]))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(kind: str, name: str, seed: int | None, result: dict[str, Any] | None, paired: str, cells: Sequence[str]) -> str:
    success = f"{page.whisker(result)}{page.rate_text(result)}" if result else "not evaluated"
    numbers = [f"{result['mean_return']:.2f}" if result else "–", *cells]
    return (
        f'<tr class="{kind}"><td class="name">{escape(name)}</td><td class=n>{"" if seed is None else seed}</td>'
        f"<td>{success}</td><td>{paired}</td>" + "".join(f"<td class=n>{c}</td>" for c in numbers) + "</tr>"
    )


def _curves(curves: Sequence[tuple[str, str, str, bool]], runs: Sequence[Run], names: Sequence[str]) -> str:
    order = in_order(names)
    drawn = []
    for title, metric, by, percent in curves:
        series = []
        for i, label in enumerate(order):
            members = [r for r, n in zip(runs, names, strict=True) if n == label]
            seeds = [column(r.metrics, metric, by) for r in members]
            line = band(label, [c for c in seeds if any(c[0])], i)  # without a teacher there are no queries to plot over
            if metric == "eval/success" and len(members) == 1:
                line = _with_interval(line, members[0], by)
            series.append(line)
        if metric == "eval/success":
            series += _teacher_lines([r.summary for r in runs], names, order, series)
        chart = Chart(title, series, "environment steps" if by == "step" else "teacher queries", percent)
        if not chart.empty:
            drawn.append((chart, f'<div class="panel">{line_chart(chart)}</div>'))
    if not drawn:
        return ""
    entries = {s.label: s for chart, _ in drawn for s in chart.series}
    keys = legend(list(entries.values())) if len(entries) > 1 else ""
    return f'{keys}<div class="charts">{"".join(html for _, html in drawn)}</div>'


def _with_interval(line: Series, run: Run, by: str) -> Series:
    """A single run's evaluations with their Wilson intervals, where they were logged for every one."""
    (_, low), (_, high) = column(run.metrics, "eval/success_lo", by), column(run.metrics, "eval/success_hi", by)
    if len(low) != len(line.x) or len(high) != len(line.x):
        return line
    return Series(line.label, line.x, line.y, low, high, line.color)


def _times(runs: Sequence[Run], names: Sequence[str]) -> str:
    out = ""
    for label in in_order(names):
        members = [r for r, n in zip(runs, names, strict=True) if n == label]
        seconds = [(part, sum(sum(column(r.metrics, metric)[1]) for r in members)) for part, metric in TIMES]
        if bar := stacked_bar(seconds):
            head = f"<div class=small>{escape(label)}</div>" if len(runs) > 1 else ""
            out += f'<div class="panel">{head}{bar}</div>'
    return out


def _evaluations(run: Run) -> dict[str, Path]:
    """The newest evaluation folder of each policy that was evaluated in a run, students first."""
    folders = sorted((p.parent for p in run.path.glob("eval/*/eval.json")), key=lambda p: (p / "eval.json").stat().st_mtime)
    newest = {str(read_json(f / "eval.json").get("policy")): f for f in folders}
    return dict(sorted(newest.items(), key=lambda item: item[0] == run.summary.get("teacher")))


def _videos(runs: Sequence[Run]) -> str:
    figures = []
    for run in runs:
        sides = sorted(run.path.glob("eval/*/side_by_side.mp4"), key=lambda p: p.stat().st_mtime)
        if sides:
            figures.append(page.video(sides[-1], "teacher and student on the same seeds; green: solved"))
            continue
        for policy, folder in _evaluations(run).items():
            if (folder / "grid.mp4").exists():
                rate = page.rate_text(read_json(folder / "eval.json"))
                figures.append(page.video(folder / "grid.mp4", f"{policy}: {rate}; green: solved"))
    return f'<div class="videos">{"".join(figures)}</div>' if figures else ""


def _strips(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return ""
    strips = [f"<div class=small>{escape(p)}</div>{page.strip(f)}" for p, f in _evaluations(runs[0]).items()]
    return f'<div class="panel">{"".join(strips)}</div>' if strips else ""


def _details(run: Run) -> str:
    name = run.path.resolve().name
    config = page.details(f"Configuration of {name}", run.config) if run.config else ""
    return config + (page.json_details(f"Versions and machine of {name}", run.info) if run.info else "")
