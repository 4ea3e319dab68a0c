"""Compare training on one rank and on two: learning curves of several seeds and algorithms, and the weights of the ranks.

python scripts/ranks.py run --out runs/ranks      # trains what is missing
python scripts/ranks.py table --out runs/ranks    # writes results/ranks/curves.json and prints a table
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rpd.core.files import write_json
from rpd.runs.reader import valid_result
from rpd.runs.tracker import read_metrics

ROOT = Path(__file__).parents[1]
SEEDS, SIZES = (0, 1, 2), (1, 2)
SHARED = ["--eval-episodes", "100", "--final-eval-episodes", "100", "--device", "cpu", "--num-threads", "1"]
ENVS = ["--env.num-envs", "32", "--ppo.num-steps", "16"]
CLONE = ["--algorithm", "bc", "--demos", "{demos}", "--eval-freq", "32000", "--total-timesteps", "160000"]
COMMANDS: dict[str, list[str]] = {
    "rpd": ["tabletop/PushCube", "--teacher", "scripted", *ENVS, "--total-timesteps", "40960", "--eval-freq", "8192"],
    "ppo": ["tabletop/Reach", "--algorithm", "ppo", *ENVS, "--total-timesteps", "102400", "--eval-freq", "20480"],
    "bc": ["tabletop/PushCube", *CLONE],
    "diffusion": ["tabletop/PushCube", *CLONE, "--student.type", "diffusion"],
}
"""Arguments of ``rpd train`` by algorithm; both numbers of ranks have the same."""


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
        words = [word.format(demos=self.out / "demos") for word in COMMANDS[self.algorithm]]
        words += [
            *(SHARED if words[0] == "train" else SHARED[4:]),
            "--seed",
            str(self.seed),
            "--runs-dir",
            str(self.out),
            "--name",
            self.folder.name,
        ]
        if (self.folder / "config.yaml").exists():
            words = [words[0], "--resume", str(self.folder)]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)]
        subprocess.run([sys.executable, *(torchrun if self.ranks > 1 else []), "-m", "rpd", *words], check=True)


def cells(out: Path) -> Iterator[Cell]:
    """Yield all runs."""
    for algorithm in COMMANDS:
        for seed in SEEDS:
            yield from (Cell(algorithm, seed, ranks, out) for ranks in SIZES)


def train(out: Path) -> None:
    """Record the demonstrations, and train the runs that are not complete."""
    if not (out / "demos").exists():
        words = ["data", "collect", "tabletop/PushCube", "--policy", "scripted", "--episodes", "200", "--noise", "0.3"]
        subprocess.run([sys.executable, "-m", "rpd", *words, "--out", str(out / "demos")], check=True)
    for robot in ROBOTS:
        if not valid_result(out / robot):
            words = [*TAUGHT, *SHARED, "--env.robot", robot, "--runs-dir", str(out), "--name", robot]
            subprocess.run([sys.executable, "-m", "rpd", *words], check=True)
    for cell in cells(out):
        if not valid_result(cell.folder):
            cell.train()


def table(out: Path) -> None:
    """Write the learning curves and final results to results/ranks/curves.json, and print them."""
    rows = []
    for cell in cells(out):
        if result := valid_result(cell.folder):
            curve = [(m["step"], m["eval/success_once"]) for m in read_metrics(cell.folder) if "eval/success_once" in m]
            students = [result["student"]] if "student" in result else [row["generalist"] for row in result["cells"]]
            successes, n = sum(student["successes"] for student in students), sum(student["n"] for student in students)
            rows.append({
                "algorithm": cell.algorithm, "seed": cell.seed, "ranks": cell.ranks, "curve": curve,
                "successes": successes, "n": n,
            })  # fmt: skip
            shown = " ".join(f"{rate:.2f}" for _, rate in curve)
            print(f"{cell.algorithm:10} seed {cell.seed}, {cell.ranks} ranks: {successes}/{n}   {shown}")
    write_json(ROOT / "results/ranks/curves.json", {"command": "python scripts/ranks.py run", "runs": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    options = parser.parse_args()
    (train if options.what == "run" else table)(options.out)
