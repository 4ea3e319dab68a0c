"""Effect of the arm's limits, and of the costs of motion, on training.

python scripts/limits.py run [--only PushCube]     # about a minute per run on an idle core; skips what is done
python scripts/limits.py show                      # the table of docs/deploy.md, from results/limits
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from markdown_table import table

from rpd.core.files import write_json
from rpd.core.statistics import format_rate, steps_to

RESULTS, RUNS = Path("results/limits"), Path("runs/limits")
STEPS = {"tabletop/PushCube": 200_000, "tabletop/PickCube": 250_000}
FREE = "--env.limit-cost 0"
CASES = {
    "ideal": f"--env.limits none {FREE}",
    "no-cost": FREE,
    "action-rate-5": f"{FREE} --env.action-rate-cost 5",
    "jerk-5": f"{FREE} --env.jerk-cost 5",
    "limit-0.1": "",
    "limit-1": "--env.limit-cost 1",
}
"""Options by the name of the case; `limit-0.1` is the preset."""
HEAD = ("task", "options", "success (95 %)", "steps per episode", "commands limited", "violations", "steps to 50 %")


def command(task: str, case: str) -> list[str]:
    """Command line of a run."""
    words = f"rpd train {task} --teacher scripted:noisy {CASES[case]} --total-timesteps {STEPS[task]} --eval-freq 25_600"
    return f"{words} --seed 0 --num-threads 1 --runs-dir {RUNS} --name {name(task, case)}".split()


def name(task: str, case: str) -> str:
    """Name of a run and of its result."""
    return f"{task.split('/')[1]}-{case}"


def run(only: str) -> int:
    """Run what has no result; returns the exit code."""
    for task in STEPS:
        for case in CASES:
            target, words = RESULTS / f"{name(task, case)}.json", command(task, case)
            if target.exists() or not re.search(only, target.stem):
                continue
            if code := subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL).returncode:
                return code
            folder = RUNS / name(task, case)
            result, info = (json.loads((folder / f"{part}.json").read_text()) for part in ("result", "env"))
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_json(target, result | {"command": " ".join(words), "git": info["git"], "machine": info["machine"]})
            print(" | ".join(row(task, case, result)), flush=True)
    return 0


def row(task: str, case: str, result: dict[str, Any]) -> list[str]:
    """Cells of a table row."""
    student = result["student"]
    reached = steps_to(0.5, [c[0] for c in result["curve"]], [c[1] for c in result["curve"]])
    limited, violations = student.get("limited"), student.get("violations")
    return [
        task.split("/")[1],
        f"`{CASES[case]}`" if CASES[case] else "preset: `--env.limit-cost 0.1`",
        format_rate(student["successes"], student["n"]),
        f"{student['mean_length']:.1f}",
        "" if limited is None else f"{100 * limited:.0f} %",
        "" if violations is None else f"{violations} of {student['n']}",
        "never" if reached is None else f"{reached / 1000:.0f} k",
    ]


def show() -> None:
    """Print the table of all results."""
    rows = []
    for task in STEPS:
        for case in CASES:
            file = RESULTS / f"{name(task, case)}.json"
            if file.exists():
                rows.append(row(task, case, json.loads(file.read_text())))
    print(table(HEAD, rows))


def main() -> int:
    """Parse and dispatch; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="run what has no result yet")
    runner.add_argument("--only", default="", help="regular expression that finds part of the runs' names")
    verbs.add_parser("show", help="print the table")
    options = parser.parse_args()
    if options.verb == "run":
        return run(options.only)
    show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
