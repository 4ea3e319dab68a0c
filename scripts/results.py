"""Results: run the experiments, and make the README's table and figure from the small files in results/.

python scripts/results.py run [--only 'state-P.*rpd'] [--jobs 2]   # hours on 2 cores; resumable, skips what is done
python scripts/results.py readme                                   # seconds: README table and docs/results.svg
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpd.report import figure_svg
from rpd.stats import steps_to

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / "results", ROOT / "runs" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SETTINGS = {
    "dense-state": ["--env.reward", "dense"],
    "sparse-state": ["--env.reward", "sparse"],
    "dense-image": ["--env.reward", "dense", "--env.obs", "image"],
    "maniskill": [],
    "libero": ["--env.reward", "dense"],
    "vla-state": ["--env.reward", "dense", "--distill.label-fraction", "0.25"],
    "octo-state": ["--env.reward", "dense", "--distill.label-fraction", "0.25"],
    "vla-image": ["--env.reward", "dense", "--env.obs", "image", "--distill.label-fraction", "0.25"],
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
NAMES = {"rpd": "RPD", "ppo": "PPO", "dagger": "DAgger (no reward)"}


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
        """The command line that makes it."""
        teacher = [] if self.teacher is None else ["--teacher", self.teacher]
        teacher += [] if self.distill is None else ["--distill", self.distill]
        return [
            "rpd", "train", self.task, "--mode", self.mode, *teacher, *SETTINGS[self.setting],
            "--seed", str(self.seed), "--total-steps", str(self.steps), "--eval-every", "25600",
            "--num-threads", "1", "--runs-dir", str(RUNS.relative_to(ROOT)), "--name", self.name,
        ]  # fmt: skip


def experiments() -> list[Experiment]:
    """All of them, the most telling first."""
    cells: list[Experiment] = []
    teachers = ("scripted:noisy", "scripted:biased")
    for seed in (0, 1, 2):
        for task in ("tabletop/PickCube", "tabletop/PushCube"):
            for teacher in teachers:
                cells.append(Experiment("dense-state", task, "rpd", teacher, seed, 250_000))
                cells.append(Experiment("sparse-state", task, "rpd", teacher, seed, 400_000))
                cells.append(Experiment("dense-state", task, "dagger", teacher, seed, 250_000))
            cells.append(Experiment("dense-state", task, "ppo", None, seed, 500_000 if "Push" in task else 900_000))
            cells.append(Experiment("sparse-state", task, "ppo", None, seed, 540_000))
    for seed in (0, 1):
        for task, steps in SIMULATOR_STEPS.items():
            cells += [Experiment(task.split("/")[0], task, "rpd", "scripted:noisy", seed, steps)]
            cells += [Experiment(task.split("/")[0], task, "ppo", None, seed, steps)]
    for seed in (0, 1, 2):
        for task, steps in (("tabletop/PushCube", 250_000), ("tabletop/PickCube", 300_000)):
            for teacher in teachers:
                cells.append(Experiment("dense-image", task, "rpd", teacher, seed, steps))
                cells.append(Experiment("dense-image", task, "dagger", teacher, seed, 150_000))
            cells.append(Experiment("dense-image", task, "ppo", None, seed, 2 * steps))
    for seed in (0, 1, 2):
        for task in ("tabletop/StackCube", "tabletop/PlaceInBin"):
            cells.append(Experiment("dense-state", task, "rpd", "scripted:noisy", seed, 400_000))
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


def run(only: str, jobs: int) -> None:
    """Run what has no result yet, `jobs` at a time, each on one thread."""
    todo = [e for e in experiments() if re.search(only, e.name) and not (RESULTS / f"{e.name}.json").exists()]
    with ThreadPoolExecutor(jobs) as pool:
        for e, message in zip(todo, pool.map(_run_one, todo), strict=True):
            print(f"{e.name}: {message}", flush=True)


def _run_one(e: Experiment) -> str:
    folder = RUNS / e.name
    command = e.command if not folder.exists() else ["rpd", "train", "--resume", str(folder)]
    program = str(Path(sys.executable).with_name("rpd"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{e.name}.log").open("a") as log:
        code = subprocess.run(
            [program, *command[1:]], cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    if code != 0:
        return f"failed with exit code {code}, see {folder.parent / e.name}.log"
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
    return f"{result['student']['successes']}/{result['student']['n']}"


def readme() -> None:
    """Rewrite the README's results section and docs/results.svg."""
    results = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))]
    (ROOT / "docs").mkdir(exist_ok=True)
    for r in results:
        r["teacher"] = short(r["teacher"])
    main = [
        r
        for r in results
        if r["mode"] != "dagger" and not r.get("distill") and r["task"].split("/")[1] in ("PickCube", "PushCube", "PushCube-v1")
    ]
    (ROOT / "docs" / "results.svg").write_text(figure_svg(main))
    text = (ROOT / "README.md").read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    (ROOT / "README.md").write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown, a table per setting: one row per task, method and teacher; seeds within a cell."""
    groups: dict[str, dict[tuple[str, str, str, str], list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        settings = [r["setting"]]
        if r["mode"] == "dagger" and r["setting"] == "dense-state":
            settings.append("sparse-state")  # without a reward the runs would be the same, number for number
        for setting in settings:
            groups[setting][(r["task"], r["mode"], r.get("distill") or "", r["teacher"] or "")].append(r)
    parts = []
    for setting in SETTINGS:
        if setting not in groups:
            continue
        lines = [
            f"**{setting}**",
            "",
            "| task | method | teacher | teacher success | final success, per seed | student − teacher, points (95 %) "
            "| steps to 50 % | env steps | teacher queries | wall time |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for key in sorted(groups[setting], key=lambda k: (k[0], ("ppo", "dagger", "rpd").index(k[1]), *k[2:])):
            lines.append(_row(*key, sorted(groups[setting][key], key=lambda r: r["seed"])))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(task: str, mode: str, distill: str, teacher: str, seeds: list[dict[str, Any]]) -> str:
    teachers = [r["teacher_eval"] for r in seeds if r["teacher_eval"]]
    reached = [steps_to(0.5, [c[0] for c in r["curve"]], [c[1] for c in r["curve"]]) for r in seeds]
    paired = [r["paired"] for r in seeds if r["paired"]]
    cells = [
        task.split("/")[1],
        f"**{NAMES[mode]}** {distill}".strip() if mode == "rpd" else NAMES[mode],
        teacher or "–",
        ", ".join(f"{t['successes']}/{t['n']}" for t in teachers) or "–",
        ", ".join(f"{r['student']['successes']}/{r['student']['n']}" for r in seeds),
        ", ".join(f"{100 * p['diff']:+.0f} ({100 * p['lo']:+.0f} to {100 * p['hi']:+.0f})" for p in paired) or "–",
        ", ".join("never" if s is None else f"{s / 1000:.0f} k" for s in reached),
        f"{seeds[0]['steps'] / 1000:.0f} k",
        f"{max(r['teacher_queries'] for r in seeds) / 1000:.0f} k",
        ", ".join(f"{r['wall_s'] / 60:.1f} min" for r in seeds),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="run what has no result yet")
    runner.add_argument("--only", default="", help="regular expression that finds part of the experiments' names")
    runner.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    verbs.add_parser("readme", help="rewrite the README's table and docs/results.svg")
    options = parser.parse_args()
    if options.verb == "run":
        run(options.only, options.jobs)
    else:
        readme()


if __name__ == "__main__":
    main()
