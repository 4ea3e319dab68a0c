"""Run the experiments, and make tables and figures from the result files in results/.

python scripts/results.py run [--only 'state-P.*rpd'] [--jobs 2]   # hours on 2 cores; resumable, skips what is done
python scripts/results.py run --launcher ray --launcher-address host:port   # on a cluster, see docs/clusters.md
python scripts/results.py readme               # seconds: README, results/README.md, docs/generalist.md, two figures in docs/
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import compass_tables
import diffusion_tables
import pooled_cells
from launching import launch_options, launching
from markdown_table import table

from rpd.bench import diffusion
from rpd.config.launch import LaunchConfig
from rpd.core.statistics import steps_to
from rpd.launch.job import Job
from rpd.launch.pool import Pool
from rpd.reporting.figure import svg
from rpd.reporting.run_charts import success_charts
from rpd.students.io.locks import LOCK

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / "results", ROOT / "runs" / "results"
SETTINGS = {
    "dense-state": ["--env.reward", "dense"],
    "sparse-state": ["--env.reward", "sparse"],
    "dense-image": ["--env.reward", "dense", "--env.obs-mode", "rgb"],
    "maniskill": [],
    "libero": ["--env.reward", "dense"],
    "vla-state": ["--env.reward", "dense", "--distill.label-fraction", "0.25"],
    "octo-state": ["--env.reward", "dense", "--distill.label-fraction", "0.25"],
    "vla-image": ["--env.reward", "dense", "--env.obs-mode", "rgb", "--distill.label-fraction", "0.25"],
}
SIMULATOR_STEPS = {
    "maniskill/PushCube-v1": 150_000,
    "maniskill/PullCube-v1": 200_000,
    "maniskill/PickCube-v1": 200_000,
    "libero/object-3": 60_000,
}
VLA_STEPS = {  # by setting and task, the quick ones first
    ("vla-state", "tabletop/Reach"): 60_000,
    ("vla-state", "tabletop/PullCube"): 100_000,
    ("vla-state", "tabletop/PickCube"): 150_000,
    ("vla-image", "tabletop/Reach"): 60_000,
    ("vla-image", "tabletop/PullCube"): 100_000,
    ("vla-image", "tabletop/PickCube"): 300_000,
}
OCTO_STEPS = 150_000
IDEAL = ", ideal arm"
NAMES = {"ppo": "PPO", "dagger": "DAgger (no reward)", "rpd": "RPD"}
TITLES = {
    "dense-state": "state, dense",
    "sparse-state": "state, sparse",
    "dense-image": "images, dense",
    "maniskill": "ManiSkill, state, dense",
    "libero": "LIBERO, state, dense",
    "vla-state": "state, dense, from a VLA",
    "octo-state": "state, dense, from an Octo",
    "vla-image": "images, dense, from a VLA",
}
PAGE = """# Every run

`python scripts/results.py run` ran the trainings, and `python scripts/results.py readme` writes this page. The other files
here have each run's settings, curve, command, commit and machine. Success is k of n episodes on held-out seeds (LIBERO's
tasks have 50 initial states, used in training and evaluation), one number per training seed. "Student − teacher" is paired
by seed, with its 95 % interval. "Pooled" is the interval of the success over seeds and episodes together: a hierarchical
bootstrap, never narrower than the Wilson interval. "Steps to 50 %" is the first evaluation with at least 50 % success; "half of
the runs" are the steps by which half of the runs have reached it, "> 540 k" if they have not within 540 thousand. Below each
table, RPD against the other methods on the same tasks and teachers: probability that a run of RPD ends above one of the other
method on one of them (a tie counts half), difference of the pooled successes, and interquartile means of the runs. The steps
of the methods are not the same everywhere: see "env steps". Wall times are those of
one thread on two cores shared with other jobs. Rows with an ideal arm are of runs from before arms had limits in training
(`results/ideal-arm/`, `--env.limits none`), with the settings of then and unequal steps.

![Learning curves on the built-in tasks](../docs/results.svg)

![Learning curves on ManiSkill and LIBERO](../docs/simulators.svg)
"""
HEAD = (
    "task", "method", "teacher", "teacher success", "final success, per seed", "pooled, % (95 %)",
    "student − teacher, points (95 %)", "steps to 50 %, per seed", "half of the runs (95 %)", "env steps", "teacher queries",
    "wall time",
)  # fmt: skip


class Cell(NamedTuple):
    """Key of a table row."""

    setting: str
    task: str
    mode: str
    distill: str
    teacher: str
    arm: str = ""
    """`IDEAL` for runs without the limits of an arm."""


@dataclass(frozen=True)
class Experiment:
    """One cell of the table, one seed."""

    setting: str
    task: str
    mode: str
    teacher: str | None
    seed: int
    steps: int
    distill: str | None = None

    @property
    def name(self) -> str:
        """File name, without the ending."""
        words = [self.setting, self.task.split("/")[1], self.mode, self.distill, short(self.teacher), f"seed{self.seed}"]
        return "-".join(word for word in words if word)

    @property
    def command(self) -> list[str]:
        """Command line of the run."""
        teacher = [] if self.teacher is None else ["--teacher", self.teacher]
        teacher += [] if self.distill is None else ["--distill", self.distill]
        return [
            "rpd", "train", self.task, "--algorithm", self.mode, *teacher, *SETTINGS[self.setting],
            "--seed", str(self.seed), "--total-timesteps", str(self.steps), "--eval-freq", "25600",
            "--num-threads", "1", "--runs-dir", str(RUNS.relative_to(ROOT)), "--name", self.name,
        ]  # fmt: skip


def experiments() -> list[Experiment]:
    """All experiments, the most informative first."""
    cells: list[Experiment] = []
    teachers = ("scripted:noisy", "scripted:biased")
    for seed in range(5):  # the headline; equal steps for all methods of a row
        for task in ("tabletop/PushCube", "tabletop/PickCube"):
            for teacher in teachers:
                cells.append(Experiment("dense-state", task, "rpd", teacher, seed, 250_000))
                cells.append(Experiment("dense-state", task, "dagger", teacher, seed, 250_000))
            cells.append(Experiment("dense-state", task, "ppo", None, seed, 250_000))
    for seed in (0, 1, 2):
        for task in ("tabletop/PickCube", "tabletop/PushCube"):
            for teacher in teachers:
                cells.append(Experiment("sparse-state", task, "rpd", teacher, seed, 400_000))
            cells.append(Experiment("sparse-state", task, "ppo", None, seed, 400_000))
    for seed in (0, 1):
        for task, steps in SIMULATOR_STEPS.items():
            cells += [Experiment(task.split("/")[0], task, "rpd", "scripted:noisy", seed, steps)]
            cells += [Experiment(task.split("/")[0], task, "ppo", None, seed, steps)]
    for seed in (0, 1, 2):
        for task, steps in (("tabletop/PushCube", 250_000), ("tabletop/PickCube", 300_000)):
            for teacher in teachers:
                cells.append(Experiment("dense-image", task, "rpd", teacher, seed, steps))
                cells.append(Experiment("dense-image", task, "dagger", teacher, seed, steps))
            cells.append(Experiment("dense-image", task, "ppo", None, seed, steps))
    for seed in (0, 1, 2):
        for task in ("tabletop/StackCube", "tabletop/PlaceInBin"):
            cells.append(Experiment("dense-state", task, "rpd", "scripted:noisy", seed, 400_000))
            cells.append(Experiment("dense-state", task, "dagger", "scripted:noisy", seed, 400_000))
            cells.append(Experiment("dense-state", task, "ppo", None, seed, 400_000))
    for distill in ("rkl", "mse", "opd"):
        for (setting, task), steps in VLA_STEPS.items():
            for seed in (0, 1, 2):
                cells.append(Experiment(setting, task, "rpd", "zoo/tabletop", seed, steps, distill))
    for seed in (0, 1, 2):
        for task in ("tabletop/PickCube", "tabletop/PushCube"):
            cells.append(Experiment("octo-state", task, "rpd", "zoo/tabletop-octo", seed, OCTO_STEPS, "rkl"))
    return cells


def short(teacher: str | None) -> str | None:
    """A teacher's name without its family."""
    return teacher and re.split("[:/]", teacher)[1]


def run(only: str, jobs: int | None, launch: LaunchConfig) -> int:
    """Run what has no result yet, each on one thread; returns the exit code."""
    todo = {e.name: e for e in experiments() if re.search(only, e.name) and not (RESULTS / f"{e.name}.json").exists()}
    RUNS.mkdir(parents=True, exist_ok=True)
    failed = 0
    with launching(launch, "results.py run") as launcher:
        pool = Pool(launcher, [_job(e, launch) for e in todo.values()], RUNS, jobs)
        for outcome in pool.outcomes():
            done = outcome.ended.code == 0
            print(f"{_collect(todo[outcome.job.name]) if done else outcome.failure}; {outcome.progress}", flush=True)
            failed += outcome.failed
    return 130 if pool.interrupted else int(failed > 0)


def _job(e: Experiment, launch: LaunchConfig) -> Job:
    folder = RUNS.relative_to(ROOT) / e.name
    return Job(
        name=e.name,
        words=tuple(e.command[1:]),
        log=RUNS / f"{e.name}.log",
        again=("train", "--resume", str(folder)),
        begun=(ROOT / folder / "config.yaml",),
        lock=ROOT / folder / LOCK,
        cpus=launch.cpus_per_run,
        gpus=launch.gpus_per_run,
    )


def _collect(e: Experiment) -> str:
    """Copy the result of a complete run to results/; returns one line about it."""
    folder = RUNS / e.name
    result = json.loads((folder / "result.json").read_text())
    info = json.loads((folder / "env.json").read_text())
    result |= {
        "setting": e.setting,
        "distill": e.distill,
        "command": " ".join(e.command),
        "git": info["git"],
        "machine": info["machine"],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{e.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return f"{e.name}: {result['student']['successes']}/{result['student']['n']}"


def readme() -> None:
    """Rewrite the tables of the README, of results/README.md (every run) and of two pages of docs, and the figures."""
    results = measured()
    replaced = {(r["setting"], r["task"]) for r in results if not r["arm"]}
    current = [r for r in results if not r["arm"] or (r["setting"], r["task"]) not in replaced]
    curves = [r for r in current if r["algorithm"] != "dagger"]
    built_in = [r for r in curves if r["task"] in ("tabletop/PickCube", "tabletop/PushCube") and not r.get("distill")]
    (ROOT / "docs" / "results.svg").write_text(svg(success_charts(built_in)))
    (ROOT / "docs" / "simulators.svg").write_text(
        svg(success_charts([r for r in curves if r["task"] in SIMULATOR_STEPS]), cols=2)
    )
    cells = grouped(results)
    (RESULTS / "README.md").write_text(f"{PAGE}\n{tables(cells)}\n")
    between(ROOT / "README.md", "results", digest(grouped(current)))
    for path in sorted((RESULTS / "compass").glob("*.json")):
        between(ROOT / "docs" / "generalist.md", path.stem, compass_tables.tables(json.loads(path.read_text())))
    benches = [json.loads(p.read_text()) for p in sorted((RESULTS / "diffusion").glob("*/bench.json"))]
    between(ROOT / "docs" / "diffusion.md", "samplers", diffusion_tables.samplers(benches))
    (ROOT / "docs" / "samplers.svg").write_text(svg(diffusion.sampler_charts(benches)))


def measured() -> list[dict[str, Any]]:
    """All results. Those of ideal arms are of before arms had limits in training."""
    folders = {"": RESULTS, IDEAL: RESULTS / "ideal-arm"}
    results = [
        {**json.loads(p.read_text()), "arm": arm} for arm, folder in folders.items() for p in sorted(folder.glob("*.json"))
    ]
    for r in results:
        r["teacher"] = short(r["teacher"])
    return results


def between(path: Path, name: str, content: str) -> None:
    """Write what stands between the marks of `name` in a page."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}")


def grouped(results: list[dict[str, Any]]) -> dict[Cell, list[dict[str, Any]]]:
    """Results by cell, in the order of the tables, each with its seeds in order."""
    groups: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for r in results:
        settings = [r["setting"]]
        if r["algorithm"] == "dagger" and r["setting"] == "dense-state":
            settings.append("sparse-state")  # without a reward the runs would be the same, number for number
        for setting in settings:
            groups[Cell(setting, r["task"], r["algorithm"], r.get("distill") or "", r["teacher"] or "", r["arm"])].append(r)

    def place(cell: Cell) -> tuple[Any, ...]:
        mode = list(NAMES).index(cell.mode)
        return (list(TITLES).index(cell.setting), cell.arm, cell.task, mode, cell.distill, cell.teacher)

    return {cell: sorted(groups[cell], key=lambda r: r["seed"]) for cell in sorted(groups, key=place)}


def digest(cells: dict[Cell, list[dict[str, Any]]]) -> str:
    """The short table: a row per setting, task and teacher, seeds pooled."""
    steps = "steps to 50 %, thousands: RPD"
    head = ("what is seen, which reward", "task", "teacher", "RPD", "PPO alone", "DAgger", steps, "PPO")
    rows = []
    for cell, seeds in cells.items():
        if cell.mode != "rpd" or cell.distill not in ("", "rkl"):
            continue
        alone, imitated = (peers(cells, cell, mode) for mode in ("ppo", "dagger"))
        teacher = seeds[0]["teacher_eval"]
        rows.append([
            TITLES[cell.setting] + cell.arm, cell.task.split("/")[1], f"{cell.teacher} {teacher['successes']}/{teacher['n']}",
            f"**{pooled_cells.successes(seeds)}** {pooled_cells.interval(seeds)}", pooled_cells.rate(alone),
            pooled_cells.rate(imitated), pooled_cells.steps(seeds), pooled_cells.steps(alone),
        ])  # fmt: skip
    return table(head, rows)


def peers(cells: dict[Cell, list[dict[str, Any]]], cell: Cell, mode: str) -> list[dict[str, Any]]:
    """Runs of another method on a cell's task, with its teacher if the method has one."""
    return cells.get(cell._replace(mode=mode) if mode == "dagger" else cell._replace(mode=mode, distill="", teacher=""), [])


def comparisons(cells: dict[Cell, list[dict[str, Any]]], setting: str, arm: str) -> str:
    """RPD against PPO alone and DAgger in one setting, over all tasks and teachers that both have; empty without any."""
    mine = {cell: seeds for cell, seeds in cells.items() if (cell.setting, cell.mode, cell.arm) == (setting, "rpd", arm)}
    rows = []
    for mode in ("ppo", "dagger"):
        pairs: dict[tuple[str, str], tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
        for cell, seeds in mine.items():
            if other := peers(cells, cell, mode):  # PPO's runs count once, against those of RPD with all teachers
                pairs.setdefault((cell.task, "" if mode == "ppo" else cell.teacher), ([], other))[0].extend(seeds)
        if pairs:
            rows.append([f"RPD against {NAMES[mode]}", *pooled_cells.comparison(list(pairs.values()))])
    return f"\n\n{table(pooled_cells.COMPARISON, rows)}" if rows else ""


def _reached(seeds: list[dict[str, Any]]) -> str:
    steps = [steps_to(0.5, [c[0] for c in r["curve"]], [c[1] for c in r["curve"]]) for r in seeds]
    return ", ".join("never" if s is None else f"{s / 1000:.0f} k" for s in steps)


def tables(cells: dict[Cell, list[dict[str, Any]]]) -> str:
    """Everything, a table per setting: one row per task, method and teacher; seeds within a cell."""
    parts = []
    for setting, title in TITLES.items():
        for arm in ("", IDEAL):
            rows = [_row(cell, seeds) for cell, seeds in cells.items() if (cell.setting, cell.arm) == (setting, arm)]
            if rows:
                parts.append(f"## {title[0].upper()}{title[1:]}{arm}\n\n{table(HEAD, rows)}{comparisons(cells, setting, arm)}")
    return "\n\n".join(parts)


def _row(cell: Cell, seeds: list[dict[str, Any]]) -> list[str]:
    teachers = [r["teacher_eval"] for r in seeds if r["teacher_eval"]]
    paired = [r["paired"] for r in seeds if r["paired"]]
    return [
        cell.task.split("/")[1],
        f"**{NAMES[cell.mode]}** {cell.distill}".strip() if cell.mode == "rpd" else NAMES[cell.mode],
        cell.teacher or "–",
        ", ".join(f"{t['successes']}/{t['n']}" for t in teachers) or "–",
        ", ".join(f"{r['student']['successes']}/{r['student']['n']}" for r in seeds),
        pooled_cells.interval(seeds),
        ", ".join(f"{100 * p['diff']:+.0f} ({100 * p['lo']:+.0f} to {100 * p['hi']:+.0f})" for p in paired) or "–",
        _reached(seeds),
        pooled_cells.steps(seeds, " k"),
        f"{seeds[0]['steps'] / 1000:.0f} k",
        f"{max(r['teacher_queries'] for r in seeds) / 1000:.0f} k",
        ", ".join(f"{r['wall_s'] / 60:.1f} min" for r in seeds),
    ]


def main() -> int:
    """Parse and dispatch; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="run what has no result yet", epilog="further options: launching, as of `rpd sweep`")
    runner.add_argument("--only", default="", help="regular expression that finds part of the experiments' names")
    runner.add_argument("--jobs", type=int, help="runs at a time, one thread each; default: one per core or GPU")
    verbs.add_parser("readme", help="rewrite tables and figures")
    options, further = parser.parse_known_args()
    os.chdir(ROOT)
    if options.verb == "run":
        return run(options.only, options.jobs, launch_options(further, "results.py run"))
    if further:
        parser.error(f"unexpected {further[0]}")
    readme()
    return 0


if __name__ == "__main__":
    sys.exit(main())
