"""One self-contained HTML file per run, comparison or evaluation: numbers, curves and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpd.core.files import write_text
from rpd.reporting.curves import in_order, labels
from rpd.reporting.page import Card, Details, Video, episodes, json_details, render
from rpd.reporting.pooled import pooled
from rpd.reporting.report_file import mark, place
from rpd.reporting.run_charts import DIAGNOSTICS, LEARNING, metric_charts, times
from rpd.reporting.text import count, duration, paired_text, rate_text
from rpd.runs.paths import is_generalist_run
from rpd.runs.reader import Run, read_json, read_run, runs_in


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
    write_text(out, _page(folders, mark(paths, out)))
    return out


def _page(runs: Sequence[Run], mark: str) -> str:
    summaries = [r.summary for r in runs]
    names = labels(summaries)
    alone = len(runs) == 1
    run = {"method": names[0], "name": runs[0].path.resolve().name, "teacher": summaries[0].get("teacher")} if alone else None
    pools = [] if alone else pooled(summaries)
    return render(
        "runs.html",
        title=", ".join(sorted({str(s.get("task") or "unknown task") for s in summaries})),
        run=run,
        count=len(runs),
        methods=in_order(names),
        cards=_cards(summaries[0]) if alone else [],
        pooled=[vars(row) for row in pools],
        several_tasks=len({row.task for row in pools}) > 1,
        rows=_rows(runs, names),
        videos=_videos(runs),
        strips=_strips(runs),
        learning=metric_charts(LEARNING, runs, names),
        diagnostics=metric_charts(DIAGNOSTICS, runs, names),
        times=times(runs, names),
        details=[part for r in runs for part in _details(r)],
        mark=mark,
    )


def write_evaluation(folder: Path) -> Path:
    """Write report.html of one evaluation into the folder of its eval.json."""
    result = read_json(folder / "eval.json")
    cards = [
        Card("Success", f"{result['rate']:.0%}", rate_text(result)),
        Card("Mean return", f"{result['mean_return']:.2f}", "undiscounted"),
        Card("Mean length", f"{result['mean_length']:.0f}", "control steps"),
    ]
    if seconds := result.get("travel_time"):
        weighted = f"mean; weighted travel time {result['weighted_travel_time']:,.0f} s"
        cards.append(Card("Solved in", f"{seconds:.1f} s", weighted))
    films = [Video(folder / "grid.mp4", "green: solved")]
    films += [Video(path, f"{path.stem}, green: solved") for path in sorted((folder / "videos").glob("*.mp4"))]
    info: dict[str, Any] = {k: result[k] for k in ("time", "versions", "git", "machine") if k in result}
    page = render(
        "evaluation.html",
        interactive=False,
        title=result["task"],
        policy=result["policy"],
        cards=cards,
        tasks=[(row["task"], row["instruction"], rate_text(row)) for row in result.get("tasks", [])],
        episodes=episodes(folder),
        videos=[film for film in films if film.path.exists()],
        notes=result.get("notes") or [],
        settings=json_details("Settings", result.get("env") or {}),
        machine=json_details("Versions and machine", info),
        mark="",
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _cards(s: dict[str, Any]) -> list[Card]:
    cards = []
    if s.get("student"):
        below = any(paired["diff"] < 0 for paired in (s.get("paired"), s.get("base_paired")) if paired)
        cards.append(Card("Student", f"{s['student']['rate']:.0%}", rate_text(s["student"]), main=not below))
    for name, result in (("Teacher", s.get("teacher_eval")), ("Base", s.get("base_eval"))):
        if result:
            cards.append(Card(name, f"{result['rate']:.0%}", rate_text(result)))
    for name, p in (("teacher", s.get("paired")), ("base", s.get("base_paired"))):
        if p:
            cards.append(Card(f"Over its {name}", f"{100 * p['diff']:+.0f}", f"points {paired_text(p)}, paired by seed"))
    cards.append(Card("Environment steps", count(s["steps"]), f"seed {s['seed']}" if s.get("seed") is not None else ""))
    if s.get("teacher_queries"):
        cards.append(Card("Teacher queries", count(s["teacher_queries"]), "labelled observations"))
    if s.get("wall_s"):
        cards.append(Card("Wall time", duration(s["wall_s"])))
    return cards


def _rows(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of results: the runs by method and seed, then teachers and bases."""
    order = in_order(names)
    rows = []
    for run, name in sorted(zip(runs, names, strict=True), key=lambda rn: (order.index(rn[1]), rn[0].summary.get("seed") or 0)):
        s = run.summary
        costs = [count(s["steps"]), count(s.get("teacher_queries")), duration(s.get("wall_s"))]
        rows.append(_row(name, s.get("student"), costs, seed=s.get("seed"), paired=s.get("paired")))
    summaries = [r.summary for r in runs]
    teachers = {(s.get("task"), s.get("teacher")): s["teacher_eval"] for s in summaries if s.get("teacher_eval")}
    rows += [_row(f"teacher {name}", result, ["", "", ""], kind="teacher") for (_, name), result in teachers.items()]
    bases = {(s["task"], s.get("robot"), s["base"]): s["base_eval"] for s in summaries if s.get("base_eval")}
    for (_, robot, base), result in bases.items():
        rows.append(_row(f"base {base} on {robot}", result, ["", "", ""], kind="teacher"))
    return rows


def _row(
    name: str,
    result: dict[str, Any] | None,
    costs: Sequence[str],
    kind: str = "",
    seed: int | None = None,
    paired: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"kind": kind, "name": name, "seed": seed, "result": result, "paired": paired, "costs": costs}


def _evaluations(run: Run) -> dict[str, Path]:
    """The newest evaluation folder of each policy that was evaluated in a run, students first."""
    folders = sorted((p.parent for p in run.path.glob("eval/*/eval.json")), key=lambda p: (p / "eval.json").stat().st_mtime)
    newest = {str(read_json(f / "eval.json").get("policy")): f for f in folders}
    return dict(sorted(newest.items(), key=lambda item: item[0] == run.summary.get("teacher")))


def _videos(runs: Sequence[Run]) -> list[Video]:
    videos = []
    for run in runs:
        sides = sorted(run.path.glob("eval/*/side_by_side.mp4"), key=lambda p: p.stat().st_mtime)
        if sides:
            who = read_json(sides[-1].with_suffix(".json"))
            left, right = who.get("left", "one policy"), who.get("right", "another")
            videos.append(Video(sides[-1], f"{left} (left) and {right} (right) on the same seeds; green: solved"))
            continue
        for policy, folder in _evaluations(run).items():
            if (folder / "grid.mp4").exists():
                rate = rate_text(read_json(folder / "eval.json"))
                videos.append(Video(folder / "grid.mp4", f"{policy}: {rate}; green: solved"))
    return videos


def _strips(runs: Sequence[Run]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Policy and episodes of each evaluation of a single run."""
    return [(policy, episodes(folder)) for policy, folder in _evaluations(runs[0]).items()] if len(runs) == 1 else []


def _details(run: Run) -> list[Details]:
    name = run.path.resolve().name
    config = [Details(f"Configuration of {name}", run.config)] if run.config else []
    return config + ([json_details(f"Versions and machine of {name}", run.info)] if run.info else [])
