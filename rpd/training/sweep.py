"""Sweeps: one training run per (task, robot, seed), several at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpd.config.loader import Tree, configure, file_settings, read_text
from rpd.config.schema import RunConfig
from rpd.core.files import write_text
from rpd.envs import registry as envs
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError
from rpd.launch.job import Job
from rpd.launch.pool import Outcome, Pool
from rpd.reporting.report_file import REPORT, is_whole
from rpd.reporting.text import rate_text
from rpd.runs.reader import SWEEP_LOGS, SWEEP_SETTINGS, valid_result
from rpd.students.io.locks import LOCK
from rpd.training.builders import make_policy, make_teacher

LOG = logging.getLogger(__name__)


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


def jobs_of(cells: list[Cell], cpus: int = 1, gpus: float | None = None) -> list[Job]:
    """One job per run, which resumes the run if it exists.

    Args:
        cells: the runs.
        cpus: CPU cores of each.
        gpus: GPUs of each, see `rpd.launch.job.Job`.
    """
    return [
        Job(
            name=cell.name,
            words=tuple(cell.words),
            log=cell.out / SWEEP_LOGS / f"{cell.name}.log",
            again=("train", "--resume", str(cell.run_dir)),
            begun=(cell.run_dir / "config.yaml",),
            lock=cell.run_dir / LOCK,
            cpus=cpus,
            gpus=gpus,
        )
        for cell in cells
    ]


def train(cells: list[Cell], pool: Pool, ended: Callable[[Cell], None]) -> list[Outcome]:
    """Run the jobs of cells to their ends, and log each result; returns the failures.

    Args:
        cells: the cells of the jobs.
        pool: runs them.
        ended: called with each cell whose job has ended.
    """
    by_name, failed = {cell.name: cell for cell in cells}, []
    for outcome in pool.outcomes():
        result = by_name[outcome.job.name].result()
        rate = rate_text(result["student"]) if result else "not complete"
        LOG.info(f"{outcome.job.name}: {rate}; {outcome.progress}")
        failed += [outcome] if outcome.failed else []
        ended(by_name[outcome.job.name])
    return failed


def _short(task: str) -> str:
    """Return the name of a task without its simulator: ``tabletop/PickCube`` -> ``PickCube``."""
    return task.rsplit("/", 1)[-1]
