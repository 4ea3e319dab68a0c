"""Compare corrections by the scripted operator with demonstrations of the expert.

python scripts/corrections.py run [--seeds 0 1 2]     # 5 to 8 minutes per seed on a busy core; skips what is done
python scripts/corrections.py show                        # the tables of docs/corrections.md, from results/corrections

Per seed: a student is cloned from `FEW` demonstrations. It acts in `EPISODES` episodes in which the scripted operator takes
over, and the expert demonstrates as many. From the same student, with the same number of gradient steps and always with the
first demonstrations, clones learn from the corrections, from the new demonstrations, from `SOME` of them (about as many steps
of the expert as the corrections have), and from the first demonstrations alone. PPO continues with the student and the
corrected clone. All are evaluated on the same episodes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from markdown_table import table

import rpd
from rpd.core.files import write_json
from rpd.core.statistics import format_rate, paired_difference
from rpd.datasets.reader import open_demos
from rpd.evaluation.evaluate import EvalResult
from rpd.runs.provenance import environment_info

ROOT = Path(__file__).resolve().parent.parent
RESULTS, WORK = Path("results/corrections"), Path("runs/corrections")
TASK, ROBOT = "tabletop/PickCube", RESULTS / "panda.yaml"
FEW, EPISODES, SOME, EVALUATED = 16, 20, 12, 200
DEPLOYED = 4_000_000
"""Seed of the first episode with the operator; evaluations begin at 3,000,000."""
RECORDED = 20_000_000
"""Seed of the first demonstration."""
ROWS = 300_000
"""Rows drawn per training."""
TRAIN = (
    f"rpd train {TASK} --algorithm bc --env.limits published --total-timesteps {ROWS} --eval-freq {ROWS} --save-freq {ROWS} "
    f"--eval-episodes 10 --final-eval-episodes 10 --num-threads 1 --runs-dir {WORK}"
)
COLLECT = f"rpd data collect {TASK} --policy scripted --env.limits published --env.obs-mode state --num-threads 1"
DEPLOY = f"rpd deploy {{}} --robot {ROBOT} --stepped True --operator scripted --episodes {EPISODES} --seconds 6"
REINFORCE = (
    f"rpd train {TASK} --algorithm ppo --env.limits published --total-timesteps 100_000 --eval-freq 100_000 --eval-episodes 10 "
    f"--final-eval-episodes 10 --num-threads 1 --runs-dir {WORK}"
)
ARMS = {
    "student": "the student", "same": "no new data", "corrections": f"corrections in {EPISODES} episodes",
    "some": f"{SOME} demonstrations", "demonstrations": f"{EPISODES} demonstrations",
    "ppo-student": "PPO from the student", "ppo-corrections": "PPO from the corrected clone",
}  # fmt: skip
"""Meaning of each run, by its name."""


def commands(seed: int) -> dict[str, list[str]]:
    """Commands of a seed, by the folder or file that each writes."""
    first, log = RECORDED + 1000 * seed, WORK / f"corrections-{seed}.rpdlog"
    few, some, more = (WORK / f"demos-{name}-{seed}" for name in ("few", "some", "more"))
    student = f"student-{seed}"
    data = {"corrections": f"{few} {log}", "demonstrations": f"{few} {more}", "some": f"{few} {some}", "same": f"{few}"}
    lines = {
        few: f"{COLLECT} --episodes {FEW} --env.num-envs {FEW} --seed {first} --out {few}",
        WORK / student: f"{TRAIN} --seed {seed} --demos {few} --name {student}",
        log: f"{DEPLOY.format(WORK / student)} --seed {DEPLOYED + 1000 * seed} --out {log}",
        more: f"{COLLECT} --episodes {EPISODES} --env.num-envs {EPISODES} --seed {first + 500} --out {more}",
        some: f"{COLLECT} --episodes {SOME} --env.num-envs {SOME} --seed {first + 500} --out {some}",
    }
    for arm, demos in data.items():
        name = f"{arm}-{seed}"
        lines[WORK / name] = f"{TRAIN} --seed {seed} --pretrained-path {WORK / student} --demos {demos} --name {name}"
    for arm in ("student", "corrections"):
        name = f"ppo-{arm}-{seed}"
        lines[WORK / name] = f"{REINFORCE} --seed {seed} --pretrained-path {WORK / f'{arm}-{seed}'} --name {name}"
    return {str(path): shlex.split(line) for path, line in lines.items()}


def measure(seed: int) -> None:
    """Run all commands of a seed, evaluate the policies on the same episodes, and write its result."""
    made = commands(seed)
    for path, words in made.items():
        if not (ROOT / path).exists():
            print(shlex.join(words), flush=True)
            subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True)
    solved = {name: _solved(WORK / f"{name}-{seed}") for name in ARMS}
    log = WORK / f"corrections-{seed}.rpdlog"
    demos = open_demos(log)
    taught = sum(int(demos.demonstrated(i).sum()) for i in range(len(demos)))
    result = {
        "task": TASK, "limits": "published", "seed": seed, "commands": [shlex.join(words) for words in made.values()],
        "episodes with the operator": len(demos), "of them solved": sum(bool(e.success) for e in demos.episodes),
        "steps with the operator": demos.num_steps, "corrections, steps": taught,
        "demonstrations, steps": {
            name: open_demos(WORK / f"demos-{name}-{seed}").num_steps for name in ("few", "some", "more")
        },
        "evaluated on": [3_000_000, 3_000_000 + EVALUATED - 1],
        "solved": {name: "".join("01"[ok] for ok in flags) for name, flags in solved.items()},
    }  # fmt: skip
    write_json(RESULTS / f"PickCube-seed{seed}.json", {**result, **environment_info()})


def _solved(run: Path) -> list[bool]:
    measured: EvalResult = rpd.evaluate(run, episodes=EVALUATED)
    print(f"{run.name}: {format_rate(measured.successes, measured.n)}", flush=True)
    return [episode.success_once for episode in measured.episodes]


def tables(results: list[dict[str, Any]]) -> str:
    """Success of every policy, per seed and in total, with its difference from the student and from the demonstrations."""
    rows = []
    for name, what in ARMS.items():
        each = [_flags(result, name) for result in results]
        every = list(chain(*each))
        row = [what, ", ".join(f"{sum(flags)}/{len(flags)}" for flags in each), format_rate(sum(every), len(every))]
        for base in ("student", "demonstrations"):
            others = list(chain(*(_flags(result, base) for result in results)))
            row.append("" if name == base else _points(every, others))
        rows.append(row)
    return table(["learned from", "per seed", "in total (95 %)", "minus the student", f"minus {ARMS['demonstrations']}"], rows)


def _flags(result: dict[str, Any], name: str) -> list[bool]:
    return [flag == "1" for flag in result["solved"][name]]


def _points(flags: list[bool], base: list[bool]) -> str:
    paired = paired_difference(flags, base)
    return f"{100 * paired.diff:+.1f} ({100 * paired.lo:+.1f} to {100 * paired.hi:+.1f})"


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if given.what == "run":
        for seed in given.seeds:
            if not (RESULTS / f"PickCube-seed{seed}.json").exists():
                measure(seed)
    print(tables([json.loads(path.read_text()) for path in sorted(RESULTS.glob("PickCube-seed*.json"))]))


if __name__ == "__main__":
    main()
