"""`rpd sweep`: a run for every (task, robot, seed), several at a time, continued where it was interrupted, in one table."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.errors import ConfigError
from rpd.atomic import write_text
from rpd.interrupt import Interrupt
from rpd.page import rate_text
from rpd.residual import make_policy
from rpd.runs import read_json
from rpd.settings import read_text, residual_options, train_options
from rpd.stats import wilson
from rpd.tables import compact
from rpd.trainer import make_teacher

POLL = 0.2  # s
SETTINGS = "settings.yaml"


class Sweep(BaseModel):
    """What a sweep's file says."""

    model_config = ConfigDict(extra="forbid")

    out: Path
    """Folder of the runs."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, e.g. tabletop/PickCube."""
    robots: tuple[str, ...] = Field(min_length=1)
    """Robots, all of which every task knows."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of the training."""
    base: str | None = None
    """Policy to correct, see `rpd residual`; {task} stands for a task's own name (PickCube), {robot} for the robot. None:
    students without a base."""
    init: str | None = None
    """Policy to start from in place of a base that stays as it is, named likewise; see `rpd train --init`."""
    settings: dict[str, Any] = {}
    """Options of the runs, as in a settings file (README, "Settings")."""


class SweepOptions(BaseModel):
    """Train every (task, robot, seed) of a file, and continue what was interrupted; prints one table."""

    model_config = ConfigDict(extra="forbid")

    file: tyro.conf.Positional[Path]
    """YAML with out, tasks, robots, seeds, base or init, and settings, e.g. configs/compass/tabletop.yaml."""
    jobs: int | None = Field(None, ge=1)
    """Runs at a time, each on one core; default: one per GPU, or per core where there is none."""
    out: Path | None = None
    """Folder of the runs, in place of the file's."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    robot: str
    seed: int
    base: str | None
    out: Path
    init: str | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{_short(self.task)}-{self.robot}-seed{self.seed}"

    @property
    def run_dir(self) -> Path:
        """Its folder."""
        return self.out / self.name

    @property
    def words(self) -> list[str]:
        """The command line that starts it, after ``rpd``."""
        verb = ["train"] if self.base is None else ["residual", self.base]
        start = [] if self.init is None else ["--init", self.init]
        return [
            *verb, self.task, *start, "--config", str(self.out / SETTINGS), "--env.robot", self.robot, "--seed", str(self.seed),
            "--num-threads", "1", "--runs-dir", str(self.out), "--name", self.name,
        ]  # fmt: skip

    def command(self) -> list[str]:
        """Start it, or continue it."""
        again = ["train", "--resume", str(self.run_dir)]
        return [sys.executable, "-m", "rpd.cli", *(again if (self.run_dir / "config.yaml").exists() else self.words)]

    def result(self) -> dict[str, Any]:
        """Its result.json, empty until it is complete."""
        return read_json(self.run_dir / "result.json")


def main(options: SweepOptions) -> int:
    """Train what is not complete, and print the table; returns the exit code."""
    sweep = read(options.file)
    sweep = sweep if options.out is None else sweep.model_copy(update={"out": options.out})
    cells = list(cells_of(sweep))
    _prepare(sweep, cells)
    todo = [cell for cell in cells if not cell.result()]
    print(f"{len(cells)} runs in {sweep.out}, {len(cells) - len(todo)} of them complete", flush=True)
    failed, interrupted = _train(todo, options.jobs or torch.cuda.device_count() or os.cpu_count() or 1)
    Console().print(table(cells))
    for cell in failed:
        print(f"failed: {cell.name}: see {_log(cell)}", flush=True)
    if interrupted:
        print(f"to continue: rpd sweep {options.file}" + (f" --out {options.out}" if options.out else ""), flush=True)
        return 130
    return 1 if failed else 0


def read(file: Path) -> Sweep:
    """Read a sweep's file: one of yours, or one that ships, ``configs/...``.

    Raises:
        ConfigError: there is no such file, or something in it is wrong; names it.
    """
    try:
        return Sweep.model_validate(yaml.safe_load(read_text(file)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from None


def cells_of(sweep: Sweep) -> Iterator[Cell]:
    """Every run, the first seed of all tasks and robots first.

    Raises:
        ConfigError: two tasks of one name, whose folders would be the same.
    """
    if len({_short(task) for task in sweep.tasks}) < len(sweep.tasks):
        raise ConfigError(f"tasks {' '.join(sweep.tasks)}: two have the same name, and their runs would share a folder")
    for seed in sweep.seeds:
        for task in sweep.tasks:
            for robot in sweep.robots:
                base, init = (
                    name and name.replace("{task}", _short(task)).replace("{robot}", robot) for name in (sweep.base, sweep.init)
                )
                yield Cell(task, robot, seed, base, sweep.out, init)


def table(cells: list[Cell]) -> Table:
    """One row per task and robot: all episodes of all seeds that are complete together."""
    shown = compact()
    based = any(cell.base is not None for cell in cells)
    shown.add_column("task", no_wrap=True)
    shown.add_column("robot", no_wrap=True)
    for name in (("base (95 %)", "steps") if based else ()) + ("success (95 %)", "steps", "runs"):
        shown.add_column(name, no_wrap=True, justify="right")
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((_short(cell.task), cell.robot), []).append(cell)
    for (task, robot), members in rows.items():
        results = [result for cell in members if (result := cell.result())]
        columns = _pooled(results[:1], "base_eval") if based else []  # the base has no seed
        shown.add_row(task, robot, *columns, *_pooled(results, "student"), f"{len(results)}/{len(members)}")
    return shown


def _pooled(results: list[dict[str, Any]], who: str) -> list[str]:
    """Success and mean length (control steps) over several evaluations."""
    found = [result[who] for result in results if result.get(who)]
    if not found:
        return ["–", "–"]
    k, n = sum(e["successes"] for e in found), sum(e["n"] for e in found)
    pooled = {"successes": k, "n": n, "rate": k / n, "interval": wilson(k, n)}
    return [rate_text(pooled), f"{sum(e['mean_length'] * e['n'] for e in found) / n:.1f}"]


def _prepare(sweep: Sweep, cells: list[Cell]) -> None:
    """Write the settings that all share, once what is wrong with any of them has been said."""
    path = sweep.out / SETTINGS
    text = yaml.safe_dump(sweep.settings, sort_keys=False)
    if path.exists() and path.read_text() != text:
        raise ConfigError(f"{path} has other settings: choose another folder with --out")
    new = not path.exists()
    sweep.out.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    try:
        for cell in (c for c in cells if c.seed == sweep.seeds[0] and not (c.run_dir / "config.yaml").exists()):
            options = residual_options(cell.words[1:]) if cell.base else train_options(cell.words[1:])
            config = options.run_config()
            small = config.env.model_copy(update={"num_envs": 1})
            with contextlib.closing(envs.make(cell.task, small, "cpu", 1)) as env:
                make_policy(config, env)
                make_teacher(config, env)
    except ConfigError:
        if new:
            path.unlink()
            with contextlib.suppress(OSError):  # it had something in it before
                sweep.out.rmdir()
        raise


def _train(cells: list[Cell], jobs: int) -> tuple[list[Cell], bool]:
    """Run cells, `jobs` at a time; returns those that failed, and whether it was interrupted."""
    waiting, failed, told = list(cells), [], False
    running: dict[int, tuple[Cell, subprocess.Popen[bytes]]] = {}  # by slot
    with Interrupt() as interrupt:
        try:
            while running or (waiting and not interrupt.requested):
                for slot in range(jobs):
                    if slot not in running and waiting and not interrupt.requested:
                        running[slot] = (cell := waiting.pop(0), _start(cell, slot))
                if interrupt.requested and not told:
                    told = True
                    for _, process in running.values():
                        process.send_signal(signal.SIGINT)  # it saves and ends
                for slot, (cell, process) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[slot]
                        failed += [cell] if code not in (0, 130) else []
                        _say(cell)
                time.sleep(POLL)
        finally:
            for _, process in running.values():
                process.kill()
    return failed, told or interrupt.requested


def _start(cell: Cell, slot: int) -> subprocess.Popen[bytes]:
    log = _log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    where = dict(os.environ, OMP_NUM_THREADS="1")
    if count := torch.cuda.device_count():
        where["CUDA_VISIBLE_DEVICES"] = str(slot % count)
    with log.open("ab") as file:  # in a session of its own: Ctrl-C reaches it once, through us
        return subprocess.Popen(cell.command(), stdout=file, stderr=subprocess.STDOUT, env=where, start_new_session=True)


def _say(cell: Cell) -> None:
    result = cell.result()
    print(f"{cell.name}: {rate_text(result['student']) if result else 'not complete'}", flush=True)


def _log(cell: Cell) -> Path:
    return cell.out / "logs" / f"{cell.name}.log"


def _short(task: str) -> str:
    """``tabletop/PickCube`` -> ``PickCube``."""
    return task.rsplit("/", 1)[-1]
