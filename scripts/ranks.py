"""Compare training on one rank and on two: learning curves of several seeds, for every algorithm; and kill ranks.

python scripts/ranks.py run --out runs/ranks      # trains what is missing
python scripts/ranks.py table --out runs/ranks    # writes results/ranks/curves.json and prints a table
python scripts/ranks.py kill --out runs/ranks     # kill -9 of 40 ranks of one run; writes results/ranks/kills.json
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpd.core.files import write_json
from rpd.runs.reader import valid_result
from rpd.runs.tracker import read_metrics

RESULTS = Path(__file__).parents[1] / "results/ranks"
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
KILLED = [
    "--env.num-envs", "8", "--env.max-episode-steps", "10", "--student.hidden-dims", "16", "--ppo.num-steps", "8",
    "--total-timesteps", "38400", "--eval-freq", "6400", "--save-freq", "320",
]  # fmt: skip
STATE = (
    "policy/model.safetensors",
    *(f"training_state/{name}.safetensors" for name in ("tensors", "rank-00000", "rank-00001")),
)
DEMOS = [
    "data",
    "collect",
    "tabletop/PushCube",
    "--policy",
    "scripted",
    "--episodes",
    "200",
    "--noise",
    "0.3",
    "--env.obs-mode",
    "state",
]


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
    subprocess.run([sys.executable, *(torchrun(ranks) if ranks > 1 else []), "-m", "rpd", *words], check=True)


def torchrun(ranks: int) -> list[str]:
    """Return the arguments of the interpreter that start a module on a number of ranks."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


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
    write_json(RESULTS / "curves.json", {"command": "python scripts/ranks.py run; python scripts/ranks.py table", "runs": rows})


def kill(out: Path, count: int = 40) -> None:
    """Kill `count` ranks of one run at random moments, resume it each time, and compare it with an undisturbed run.

    A moment is 1 to 30 s after torchrun has started the ranks. torchrun itself is not killed.
    """
    words = ["train", "tabletop/Reach", "--teacher", "scripted:noise=0.5", *COMMON, *KILLED, "--runs-dir", str(out), "--name"]
    whole, broken = out / "whole", out / "killed"
    if not valid_result(whole):
        rpd([*words, whole.name], 2)
    draw, kills, ended = random.Random(0), [0, 0], 0.0
    while not valid_result(broken):
        again = ["train", "--resume", str(broken)] if (broken / "config.yaml").exists() else [*words, broken.name]
        process = subprocess.Popen([sys.executable, *torchrun(2), "-m", "rpd", *again])
        if sum(kills) < count:
            time.sleep(draw.uniform(1, 30))
            if len(ranks := children(process.pid)) == 2:
                rank = draw.randrange(2)
                os.kill(ranks[rank], signal.SIGKILL)
                kills[rank] += 1
                began = time.monotonic()
                while any(Path(f"/proc/{pid}").exists() for pid in ranks):
                    time.sleep(0.01)
                ended = max(ended, time.monotonic() - began)
        process.wait()
    result = {
        "command": "python scripts/ranks.py kill", "kills_of_rank": kills, "seconds_until_all_ranks_ended": ended,
        "equal_files": {name: same(whole / "checkpoints/last" / name, broken / "checkpoints/last" / name) for name in STATE},
        "equal_metrics": metrics(whole) == metrics(broken),
    }  # fmt: skip
    print(result)
    write_json(RESULTS / "kills.json", result)


def children(pid: int) -> list[int]:
    """Return the ids of a process's children that run `rpd`, in the order of their start."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "rpd"], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def same(one: Path, two: Path) -> bool:
    """Return whether two files have the same content."""
    return one.read_bytes() == two.read_bytes()


def metrics(run: Path) -> list[dict[str, float]]:
    """Return the metrics of a run without the times."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in read_metrics(run)]


if __name__ == "__main__":
    RESULTS.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "kill"))
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    options = parser.parse_args()
    {"run": train, "table": table, "kill": kill}[options.what](options.out)
