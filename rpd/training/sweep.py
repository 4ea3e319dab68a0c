"""Sweeps: one training run per (task, robot, seed), several at a time."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpd.config.loader import Tree, configure, file_settings, read_text
from rpd.config.schema import RunConfig
from rpd.core import children
from rpd.core.files import write_text
from rpd.core.interrupt import Interrupt
from rpd.envs import registry as envs
from rpd.envs.errors import ConfigError
from rpd.reporting.html import rate_text
from rpd.reporting.report_file import REPORT, is_whole
from rpd.runs.reader import SWEEP_LOGS, SWEEP_SETTINGS, valid_result
from rpd.students import unique_yaml
from rpd.training.builders import make_policy, make_teacher

LOG = logging.getLogger(__name__)

POLL = 0.2  # s


class Sweep(BaseModel):
    """Content of a sweep file."""

    model_config = ConfigDict(extra="forbid")

    out: Path
    """Parent folder of the runs."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, e.g. tabletop/PickCube."""
    robots: tuple[str, ...] = Field(min_length=1)
    """Robots; every task must support all of them."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Training seeds."""
    base: str | None = None
    """Base of residual policies, see `rpd residual`; {task} is replaced by the task's name (PickCube), {robot} by the robot.
    None: students without a base."""
    pretrained_path: str | None = None
    """Initial policy of the students, with the same placeholders as `base`; see `rpd train --pretrained-path`."""
    settings: dict[str, Any] = {}
    """Options of all runs, as in a settings file (README, "Settings")."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    task: str
    robot: str
    seed: int
    base: str | None
    out: Path
    pretrained_path: str | None = None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return f"{_short(self.task)}-{self.robot}-seed{self.seed}"

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.out / self.name

    @property
    def words(self) -> list[str]:
        """Arguments of ``rpd`` that start the run."""
        verb = ["train"] if self.base is None else ["residual", self.base]
        start = [] if self.pretrained_path is None else ["--pretrained-path", self.pretrained_path]
        return [
            *verb, self.task, *start, "--config", str(self.out / SWEEP_SETTINGS), "--env.robot", self.robot,
            "--seed", str(self.seed), "--num-threads", "1", "--runs-dir", str(self.out), "--name", self.name,
        ]  # fmt: skip

    def config(self, settings: Tree) -> RunConfig:
        """Return the configuration equivalent to `words`, from the sweep's settings."""
        own = {
            "base": self.base,
            "pretrained_path": self.pretrained_path,
            "seed": self.seed,
            "num_threads": 1,
            "env": {"robot": self.robot},
        }
        return configure(self.task, {name: value for name, value in own.items() if value is not None}, settings)

    def command(self) -> list[str]:
        """Return the arguments of ``rpd`` that start the run, or resume it if it exists."""
        again = ["train", "--resume", str(self.run_dir)]
        return again if (self.run_dir / "config.yaml").exists() else self.words

    def result(self) -> dict[str, Any]:
        """Return the run's result.json; empty until the run is complete."""
        return valid_result(self.run_dir)

    @property
    def is_complete(self) -> bool:
        """Whether the run and its report are complete."""
        return bool(self.result()) and is_whole(self.run_dir / REPORT)


def read(file: Path) -> Sweep:
    """Read a sweep file; the shipped ones are in ``configs/``.

    Raises:
        ConfigError: no such file, or an invalid entry; names the entry.
    """
    try:
        return Sweep.model_validate(unique_yaml.load(read_text(file), str(file)))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc'])) or 'the whole file'}: {first['msg']}") from None


def cells_of(sweep: Sweep) -> Iterator[Cell]:
    """Yield all runs, ordered by seed, then by task and robot.

    Raises:
        ConfigError: two tasks have the same name, so that their runs would share a folder.
    """
    if len({_short(task) for task in sweep.tasks}) < len(sweep.tasks):
        raise ConfigError(f"tasks {' '.join(sweep.tasks)}: two have the same name, and their runs would share a folder")
    for seed in sweep.seeds:
        for task in sweep.tasks:
            for robot in sweep.robots:
                base, init = (
                    name and name.replace("{task}", _short(task)).replace("{robot}", robot)
                    for name in (sweep.base, sweep.pretrained_path)
                )
                yield Cell(task, robot, seed, base, sweep.out, init)


def _prepare(sweep: Sweep, cells: list[Cell]) -> None:
    """Write the shared settings and check every task and robot by building its environment, policy and teacher.

    Raises:
        ConfigError: an invalid run, or the folder has other settings.
    """
    path = sweep.out / SWEEP_SETTINGS
    text = yaml.safe_dump(sweep.settings, sort_keys=False)
    if path.exists() and path.read_text() != text:
        raise ConfigError(f"{path} has other settings: choose another folder with --out")
    new = not path.exists()
    write_text(path, text)
    try:
        settings = file_settings(path)
        for cell in (c for c in cells if c.seed == sweep.seeds[0] and not (c.run_dir / "config.yaml").exists()):
            config = cell.config(settings)
            small = config.env.model_copy(update={"num_envs": 1})
            with contextlib.closing(envs.make(cell.task, small, "cpu", 1)) as env:
                make_policy(config, env)
                make_teacher(config, env)
    except ConfigError:
        if new:
            path.unlink()
        raise


def _train(cells: list[Cell], jobs: int) -> tuple[list[Cell], bool]:
    """Run cells, `jobs` at a time; returns the failed ones, and whether the sweep was interrupted."""
    waiting, failed, stopping = list(cells), [], False
    running: dict[int, tuple[Cell, subprocess.Popen[bytes]]] = {}  # by slot
    with Interrupt() as interrupt:
        try:
            while running or (waiting and not interrupt.requested):
                for slot in range(jobs):
                    if slot not in running and waiting and not interrupt.requested:
                        running[slot] = (cell := waiting.pop(0), _start(cell, slot))
                if interrupt.requested and not stopping:
                    stopping = True
                    for _, process in running.values():
                        process.send_signal(signal.SIGINT)  # the run saves a checkpoint and exits
                for slot, (cell, process) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[slot]
                        failed += [cell] if code not in (0, 130) else []
                        _log_result(cell)
                time.sleep(POLL)
        finally:
            for _, process in running.values():
                process.kill()
    return failed, stopping or interrupt.requested


def _start(cell: Cell, slot: int) -> subprocess.Popen[bytes]:
    log = _log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    where = {"OMP_NUM_THREADS": "1"}
    if count := torch.cuda.device_count():
        where["CUDA_VISIBLE_DEVICES"] = str(slot % count)
    with log.open("ab") as file:  # own session: Ctrl-C reaches the run once, forwarded by this process
        return children.start(cell.command(), file, where, own_session=True)


def _log_result(cell: Cell) -> None:
    result = cell.result()
    LOG.info(f"{cell.name}: {rate_text(result['student']) if result else 'not complete'}")


def _log(cell: Cell) -> Path:
    return cell.out / SWEEP_LOGS / f"{cell.name}.log"


def _short(task: str) -> str:
    """Return the name of a task without its simulator: ``tabletop/PickCube`` -> ``PickCube``."""
    return task.rsplit("/", 1)[-1]
