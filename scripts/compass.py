"""Run the COMPASS experiments: a base on one robot, specialists of all robots, generalists, and baselines.

python scripts/compass.py navigate [--jobs 2]    # hours on 2 cores; after Ctrl-C, the same command resumes
python scripts/compass.py tabletop [--jobs 2]
python scripts/compass.py tabletop --launcher ray --launcher-address host:port   # on a cluster, see docs/clusters.md
python scripts/compass.py navigate --list        # the commands, without running them

Every cell is an ordinary run folder, and every command one that can be typed. In the end: one page with all of it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from launching import launch_options, launching

from rpd.config.launch import LaunchConfig
from rpd.datasets.dataset_dir import INDEX
from rpd.launch.base import Launcher
from rpd.launch.job import Job
from rpd.launch.local import LocalLauncher
from rpd.launch.pool import Pool
from rpd.runs.reader import valid_result
from rpd.students.io.locks import LOCK
from rpd.training.sweep import Sweep, cells_of, read

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Domain:
    """Family of robots with the sweeps ``configs/experiments/compass/<name>{,-tuned,-scratch}.yaml``."""

    home: str
    """Robot of the base."""
    base_reads: str
    """State groups of the base: none that is specific to one robot."""
    reads: str
    """State groups of a generalist."""
    describe: str
    """Descriptor keys of a generalist; empty: all that differ."""
    held_out: tuple[str, ...]
    """Robots that are held out, one at a time."""


GOAL = "range goal velocity command"
DOMAINS = {
    "navigate": Domain("wheeled", GOAL, GOAL, "", ("omni", "legged")),
    "tabletop": Domain(
        "panda", "gripper tcp_lag touch object goal", "gripper tcp tcp_lag touch object goal",
        "reach opening max_delta_pos delay", ("xarm6", "ur10e"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command, what it writes, and how it goes on after an interruption."""

    words: list[str]
    folder: Path
    again: list[str] | None = None
    """None: by the same command, which does what is not done."""
    here: bool = False
    """Whether it runs on this machine with every launcher: it is short, or launches processes itself."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.again is not None and bool(valid_result(self.folder))


BEGUN = ("config.yaml", INDEX)
"""Files of which a folder has one if there is something to go on with."""


def stages(name: str, domain: Domain, launch: Sequence[str] = ()) -> list[list[Step]]:
    """All commands; those of a stage may run at the same time, the stages one after the other.

    Args:
        name: of the domain.
        domain: the domain.
        launch: options of the sweeps, e.g. ``--jobs 2``.
    """
    sweeps = {kind: read(Path(f"configs/experiments/compass/{name}{kind}.yaml")) for kind in ("", "-tuned", "-scratch")}
    sweep = sweeps[""]
    bases = {cell.task: Path(str(cell.base)) for cell in cells_of(sweep)}
    distilled = _distilled(sweep, domain)
    runs = [str(cell.run_dir) for each in sweeps.values() for cell in cells_of(each)]
    page = ["--out", str(sweep.out / "report.html")]
    return [
        [_collect(task, Path("demos") / base.name, domain.home) for task, base in bases.items()],
        [_clone(task, base, domain) for task, base in bases.items()],
        *(
            [Step(["rpd", "sweep", f"configs/experiments/compass/{name}{kind}.yaml", *launch], s.out, here=True)]
            for kind, s in sweeps.items()
        ),
        distilled,
        [Step(["rpd", "report", *runs, *(str(step.folder) for step in distilled), *page], sweep.out, here=True)],
    ]


def _collect(task: str, folder: Path, robot: str) -> Step:
    options = f"--robot {robot} --policy scripted --noise 0.2 --episodes 300 --env.obs-mode state --num-threads 1"
    again = ["rpd", "data", "collect", "--resume", str(folder)]
    return Step(f"rpd data collect {task} {options} --out {folder}".split(), folder, again)


def _clone(task: str, base: Path, domain: Domain) -> Step:
    options = f"--demos demos/{base.name} --robot {domain.home} --student.state-keys {domain.base_reads}"
    return _run(f"rpd train {task} --algorithm bc {options}", base)


def _distilled(sweep: Sweep, domain: Domain) -> list[Step]:
    """From the first seed's specialists: all of them, and all but one robot's."""
    descriptor = "--embodiment descriptor" + (f" --generalist.descriptor-keys {domain.describe}" if domain.describe else "")
    one_hot = "--embodiment one-hot"

    def distil(name: str, options: str, without: str = "") -> Step:
        cells = [cell for cell in cells_of(sweep) if cell.seed == sweep.seeds[0] and cell.robot != without]
        runs = " ".join(str(cell.run_dir) for cell in cells)
        held = f"--held-out {without} " if without else ""
        return _run(f"rpd generalist {runs} {held}--student.state-keys {domain.reads} {options}", sweep.out / name)

    return [
        distil("generalist", descriptor),
        distil(
            "off-policy", f"{descriptor} --dagger-iterations 0 --train-steps 10000 --episodes 512"
        ),  # as many labels and gradient steps
        distil("one-hot", one_hot),
        *(distil(f"without-{robot}", descriptor, robot) for robot in domain.held_out),
        *(distil(f"without-{robot}-one-hot", one_hot, robot) for robot in domain.held_out),
    ]


def _run(command: str, folder: Path) -> Step:
    words = f"{command} --num-threads 1 --runs-dir {folder.parent} --name {folder.name}".split()
    return Step(words, folder, ["rpd", words[1], "--resume", str(folder)])


def run(stage: list[Step], logs: Path, launcher: Launcher, launch: LaunchConfig, jobs: int | None) -> int:
    """Do what is not done of a stage; returns the exit code."""
    if all(step.here for step in stage):
        launcher = LocalLauncher(torch.cuda.device_count())
    pool = Pool(launcher, [_job(step, logs, launch) for step in stage if not step.complete], logs, jobs)
    failed = 0
    for outcome in pool.outcomes():
        print(outcome.failure if outcome.failed else f"{outcome.job.name}: {outcome.progress}", flush=True)
        failed += outcome.failed
    return 130 if pool.interrupted else int(failed > 0)


def _job(step: Step, logs: Path, launch: LaunchConfig) -> Job:
    name = f"{step.words[1]}-{step.folder.name}"
    return Job(
        name=name,
        words=tuple(step.words[1:]),
        log=logs / f"{name}.log",
        again=None if step.again is None else tuple(step.again[1:]),
        begun=() if step.again is None else tuple(step.folder / marker for marker in BEGUN),
        lock=None if step.here else step.folder / LOCK,
        cpus=launch.cpus_per_run,
        gpus=launch.gpus_per_run,
    )


def main() -> int:
    """Run all stages of a domain; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="further options: launching, as of `rpd sweep`",
    )
    parser.add_argument("domain", choices=DOMAINS)
    parser.add_argument("--jobs", type=int, help="commands at a time; default: one per core or GPU")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    options, further = parser.parse_known_args()
    launch = launch_options(further, "compass.py")
    os.chdir(ROOT)
    at_once = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    plan = stages(options.domain, DOMAINS[options.domain], [*at_once, *further])
    if options.list:
        print("\n".join(shlex.join(step.words) for stage in plan for step in stage))
        return 0
    logs = Path("runs") / f"compass-logs-{options.domain}"
    logs.mkdir(parents=True, exist_ok=True)
    with launching(launch, "compass.py") as launcher:
        for stage in plan:
            if code := run(stage, logs, launcher, launch, options.jobs):
                print(f"to continue: {shlex.join(['python', *sys.argv])}", flush=True)
                return code
    page = plan[-1][0].folder / "report.html"
    kept = Path("results") / "compass" / f"{options.domain}.json"  # see scripts/results.py
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(page.with_suffix(".json"), kept)
    print(f"report: {page}\nnumbers: {kept}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
