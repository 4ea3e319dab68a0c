"""One self-contained HTML file per run, comparison or evaluation: numbers, curves and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rpd.core.files import write_text
from rpd.reporting import html as page
from rpd.reporting.charts import Chart, Series, figure, legend, line_chart, stacked_bar
from rpd.reporting.curves import band, column, in_order, labels
from rpd.reporting.report_file import mark, place
from rpd.runs.paths import is_generalist_run
from rpd.runs.reader import Run, read_json, read_run, runs_in

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


def write(runs: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run or a comparison of several; with a generalist among them, a matrix of robots.

    Args:
        runs: run folders, or folders of them, see `rpd.runs.reader.runs_in`.
        out: HTML file, see `rpd.reporting.report_file.place`.

    Returns:
        Path of the report.

    Raises:
        ConfigError: a folder is not a run, a file in it is damaged, or `out` is another file.
    """
    paths = runs_in([Path(runs)] if isinstance(runs, (str, Path)) else [Path(p) for p in runs])
    folders = [read_run(p) for p in paths]
    out = place(paths, out)
    if any(map(is_generalist_run, paths)):
        from rpd.reporting.generalist_report import write as write_matrix

        return write_matrix(paths, out)
    names = labels([r.summary for r in folders])
    tasks = sorted({str(r.summary.get("task") or "unknown task") for r in folders})
    title = ", ".join(tasks)
    if len(folders) == 1:
        run = Markup("{} run <b>{}</b>").format(names[0], folders[0].path.resolve().name)
        lead = run + _of_teacher(folders[0].summary)
        body = _cards(folders[0].summary)
    else:
        lead = Markup("{} runs: {}").format(len(folders), ", ".join(in_order(names)))
        body = page.EMPTY
    body += page.section("Results", page.panel(_table(folders, names)))
    body += page.section("Episodes", _videos(folders) + _strips(folders))
    body += page.section("Learning curves", _curves(LEARNING, folders, names))
    body += page.section("Diagnostics", _curves(DIAGNOSTICS, folders, names))
    body += page.section("Where the time goes", _times(folders, names))
    body += page.section("Details", page.EMPTY.join(_details(r) for r in folders))
    write_text(out, page.document(title, lead, body) + mark(paths, out))
    return out


def write_evaluation(folder: Path) -> Path:
    """Write report.html of one evaluation into the folder of its eval.json."""
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
    body += page.section("Every episode, in the order of its seed", page.panel(page.strip(folder)))
    films = [(folder / "grid.mp4", "green: solved")]
    films += [(path, f"{path.stem}, green: solved") for path in sorted((folder / "videos").glob("*.mp4"))]
    if videos := [page.video(path, caption) for path, caption in films if path.exists()]:
        body += page.section("Video", page.EMPTY.join(videos))
    if notes := result.get("notes"):
        body += page.section("Notes", page.each("<p>{}</p>", notes))
    body += page.section("Environment", page.json_details("Settings", result.get("env") or {}))
    info: dict[str, Any] = {k: result[k] for k in ("time", "versions", "git", "machine") if k in result}
    body += page.section("Details", page.json_details("Versions and machine", info))
    lead = Markup("evaluation of <b>{}</b>").format(result["policy"])
    write_text(folder / "report.html", page.document(result["task"], lead, body))
    return folder / "report.html"


def figure_svg(summaries: Sequence[dict[str, Any]], cols: int = 3) -> str:
    """Draw success over environment steps from result.json objects, as a complete SVG file for a README.

    One chart per task, reward and observation mode; one line per kind of run, its mean over seeds with a band
    from the lowest to the highest; teachers as dashed lines.

    Args:
        summaries: contents of result.json files; ``reward``, ``obs_mode`` and ``label`` are optional.
        cols: charts per row.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    for s in summaries:
        panels.setdefault(" · ".join(str(s[k]) for k in ("task", "reward", "obs_mode") if s.get(k)), []).append(s)
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
        return [Series("teacher", [0, end], [r, r], color=TEACHER_COLOR, dashed=True) for _, r in pupils.values()]
    return [Series(f"teacher of {name}", [0, end], [r, r], color=order.index(name), dashed=True) for name, r in pupils.values()]


def _of_teacher(summary: dict[str, Any]) -> Markup:
    return Markup(", teacher <b>{}</b>").format(summary["teacher"]) if summary.get("teacher") else page.EMPTY


def _cards(s: dict[str, Any]) -> Markup:
    cards = []
    if s.get("student"):
        below = any(paired["diff"] < 0 for paired in (s.get("paired"), s.get("base_paired")) if paired)
        cards.append(("Student", f"{s['student']['rate']:.0%}", page.rate_text(s["student"]), not below))
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


def _table(runs: Sequence[Run], names: Sequence[str]) -> Markup:
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
    head = page.EMPTY.join(
        Markup("<th{}>{}</th>").format(Markup(" class=n") if i not in (0, 2, 3) else "", h) for i, h in enumerate(heads)
    )
    order = in_order(names)
    rows = []
    for run, name in sorted(zip(runs, names, strict=True), key=lambda rn: (order.index(rn[1]), rn[0].summary.get("seed") or 0)):
        s = run.summary
        p = s.get("paired")
        small = Markup("{:+.0f} <span class=small>{}</span>")
        paired = small.format(100 * p["diff"], page.paired_text(p)) if p else Markup("–")
        cells = [page.count(s["steps"]), page.count(s.get("teacher_queries")), page.duration(s.get("wall_s"))]
        rows.append(_row("", name, s.get("seed"), s.get("student"), paired, cells))
    teachers = {
        (s.get("task"), s.get("teacher")): s["teacher_eval"] for s in (r.summary for r in runs) if s.get("teacher_eval")
    }
    for (_, teacher), result in teachers.items():
        rows.append(_row("teacher", f"teacher {teacher}", None, result, page.EMPTY, ["", "", ""]))
    bases = {(s["task"], s.get("robot"), s["base"]): s["base_eval"] for s in (r.summary for r in runs) if s.get("base_eval")}
    for (_, robot, base), result in bases.items():
        rows.append(_row("teacher", f"base {base} on {robot}", None, result, page.EMPTY, ["", "", ""]))
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, page.EMPTY.join(rows))


def _row(kind: str, name: str, seed: int | None, result: dict[str, Any] | None, paired: Markup, cells: Sequence[str]) -> Markup:
    success = page.whisker(result) + page.rate_text(result) if result else Markup("not evaluated")
    numbers = page.each("<td class=n>{}</td>", [f"{result['mean_return']:.2f}" if result else "–", *cells])
    return Markup('<tr class="{}"><td class="name">{}</td><td class=n>{}</td><td>{}</td><td>{}</td>{}</tr>').format(
        kind, name, "" if seed is None else seed, success, paired, numbers
    )


def _curves(curves: Sequence[tuple[str, str, str, bool]], runs: Sequence[Run], names: Sequence[str]) -> Markup:
    order = in_order(names)
    drawn = []
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
        chart = Chart(title, series, "environment steps" if by == "step" else "teacher queries", percent)
        if not chart.empty:
            drawn.append((chart, page.panel(line_chart(chart))))
    if not drawn:
        return page.EMPTY
    entries = {s.label: s for chart, _ in drawn for s in chart.series}
    keys = legend(list(entries.values())) if len(entries) > 1 else page.EMPTY
    return Markup('{}<div class="charts">{}</div>').format(keys, page.EMPTY.join(html for _, html in drawn))


def _with_interval(line: Series, run: Run, by: str) -> Series:
    """Evaluations of a single run with their Wilson intervals, if all were logged."""
    (_, low), (_, high) = column(run.metrics, "eval/success_once_lo", by), column(run.metrics, "eval/success_once_hi", by)
    if len(low) != len(line.x) or len(high) != len(line.x):
        return line
    return Series(line.label, line.x, line.y, low, high, line.color)


def _times(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    out = page.EMPTY
    for label in in_order(names):
        members = [r for r, n in zip(runs, names, strict=True) if n == label]
        seconds = [(part, sum(sum(column(r.metrics, metric)[1]) for r in members)) for part, metric in TIMES]
        if bar := stacked_bar(seconds):
            out += page.panel((_small(label) if len(runs) > 1 else page.EMPTY) + bar)
    return out


def _evaluations(run: Run) -> dict[str, Path]:
    """The newest evaluation folder of each policy that was evaluated in a run, students first."""
    folders = sorted((p.parent for p in run.path.glob("eval/*/eval.json")), key=lambda p: (p / "eval.json").stat().st_mtime)
    newest = {str(read_json(f / "eval.json").get("policy")): f for f in folders}
    return dict(sorted(newest.items(), key=lambda item: item[0] == run.summary.get("teacher")))


def _videos(runs: Sequence[Run]) -> Markup:
    figures = []
    for run in runs:
        sides = sorted(run.path.glob("eval/*/side_by_side.mp4"), key=lambda p: p.stat().st_mtime)
        if sides:
            who = read_json(sides[-1].with_suffix(".json"))
            left, right = who.get("left", "one policy"), who.get("right", "another")
            figures.append(page.video(sides[-1], f"{left} (left) and {right} (right) on the same seeds; green: solved"))
            continue
        for policy, folder in _evaluations(run).items():
            if (folder / "grid.mp4").exists():
                rate = page.rate_text(read_json(folder / "eval.json"))
                figures.append(page.video(folder / "grid.mp4", f"{policy}: {rate}; green: solved"))
    return Markup('<div class="videos">{}</div>').format(page.EMPTY.join(figures)) if figures else page.EMPTY


def _strips(runs: Sequence[Run]) -> Markup:
    if len(runs) > 1:
        return page.EMPTY
    strips = page.EMPTY.join(_small(policy) + page.strip(folder) for policy, folder in _evaluations(runs[0]).items())
    return page.panel(strips) if strips else page.EMPTY


def _small(text: str) -> Markup:
    return Markup("<div class=small>{}</div>").format(text)


def _details(run: Run) -> Markup:
    name = run.path.resolve().name
    config = page.details(f"Configuration of {name}", run.config) if run.config else page.EMPTY
    return config + (page.json_details(f"Versions and machine of {name}", run.info) if run.info else page.EMPTY)
