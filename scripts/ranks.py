"""Compare training on one rank and on two: learning curves of several seeds, for every algorithm.

python scripts/ranks.py run --out runs/ranks      # trains what is missing
python scripts/ranks.py table --out runs/ranks    # writes results/ranks/curves.json and prints a table
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpd.core.files import write_json
from rpd.runs.reader import valid_result
from rpd.runs.tracker import read_metrics

RESULTS = Path(__file__).parents[1] / "results/ranks/curves.json"
SEEDS, RANKS, ROBOTS = (0, 1, 2), (1, 2), ("panda", "ur5e_slow")
COMMON = ["--eval-episodes", "100", "--final-eval-episodes", "100", "--num-threads", "1"]
ENVS = ["--env.num-envs", "32", "--ppo.num-steps", "16"]
CLONE = ["--algorithm", "bc", "--demos", "{out}/demos", "--total-timesteps", "160000", "--eval-freq", "32000"]
COMMANDS: dict[str, list[str]] = {
    "rpd": ["train", "tabletop/PushCube", "--teacher", "scripted", *ENVS, "--total-timesteps", "40960", "--eval-freq", "8192"],
    "ppo": ["train", "tabletop/Reach", "--algorithm", "ppo", *ENVS, "--total-timesteps", "102400", "--eval-freq", "20480"],
    "bc": ["train", "tabletop/PushCube", *CLONE],
    "diffusion": ["train", "tabletop/PushCube", *CLONE, "--student.type", "diffusion"],
    "generalist": ["generalist", *(f"{{out}}/{robot}" for robot in ROBOTS), "--num-envs", "16", "--train-steps", "1000"],
}
"""Arguments of ``rpd`` by algorithm, the same for both numbers of ranks."""
SPECIALIST = ["train", "tabletop/Reach", "--teacher", "scripted", *ENVS, "--total-timesteps", "40960"]
DEMOS = ["data", "collect", "tabletop/PushCube", "--policy", "scripted", "--episodes", "200", "--noise", "0.3"]


@dataclass(frozen=True)
class Cell:
    """One run."""

    algorithm: str
    seed: int
    ranks: int
    out: Path

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / f"{self.algorithm}-seed{self.seed}-ranks{self.ranks}"

    def train(self) -> None:
        """Train the run, or continue it."""
        verb, *words = [word.format(out=self.out) for word in COMMANDS[self.algorithm]]
        words += [*COMMON, "--seed", str(self.seed), "--runs-dir", str(self.out), "--name", self.folder.name]
        rpd([verb, "--resume", str(self.folder)] if (self.folder / "config.yaml").exists() else [verb, *words], self.ranks)


def rpd(words: Sequence[str], ranks: int = 1) -> None:
    """Run an ``rpd`` command on a number of ranks."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    subprocess.run([sys.executable, *torchrun, "-m", "rpd", *words], check=True)


def cells(out: Path) -> Iterator[Cell]:
    """Yield all runs."""
    for algorithm in COMMANDS:
        for seed in SEEDS:
            yield from (Cell(algorithm, seed, ranks, out) for ranks in RANKS)


def train(out: Path) -> None:
    """Make the inputs, and train the runs that are not complete."""
    if not (out / "demos").exists():
        rpd([*DEMOS, "--out", str(out / "demos")])
    for robot in ROBOTS:
        if not valid_result(out / robot):
            rpd([*SPECIALIST, *COMMON, "--env.robot", robot, "--runs-dir", str(out), "--name", robot])
    for cell in cells(out):
        if not valid_result(cell.folder):
            cell.train()


def table(out: Path) -> None:
    """Write learning curves and final results, and print them."""
    rows = []
    for cell in cells(out):
        result = valid_result(cell.folder)
        if not result:
            continue
        students = [result["student"]] if "student" in result else [row["generalist"] for row in result["cells"]]
        successes, n = (sum(student[key] for student in students) for key in ("successes", "n"))
        curve = [(m["step"], m["eval/success_once"]) for m in read_metrics(cell.folder) if "eval/success_once" in m]
        rows.append({
            "algorithm": cell.algorithm, "seed": cell.seed, "ranks": cell.ranks, "successes": successes, "n": n, "curve": curve,
        })  # fmt: skip
        rates = " ".join(f"{rate:.2f}" for _, rate in curve)
        print(f"{cell.algorithm:10}  seed {cell.seed}  ranks {cell.ranks}  {successes}/{n}  {rates}")
    write_json(RESULTS, {"command": "python scripts/ranks.py run; python scripts/ranks.py table", "runs": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    options = parser.parse_args()
    (train if options.what == "run" else table)(options.out)
