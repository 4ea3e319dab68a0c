"""Specialists and their environments: one environment per robot and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import config_for
from rpd.envs.vector_env import VectorEnv
from rpd.policies.cameras import with_teacher_cameras
from rpd.policies.made_for import made_for
from rpd.runs.paths import is_generalist_run
from rpd.runs.reader import read_json
from rpd.teachers import registry as teachers
from rpd.teachers.adapters.student import base_of
from rpd.teachers.base import Teacher
from rpd.teachers.refs import trained_path


@dataclass(frozen=True)
class Cell:
    """A task and a robot, with the specialist trained on them."""

    task: str
    robot: str
    run: Path
    env: VectorEnv
    teacher: Teacher
    identity: str | None
    """Identity of the specialist, see `rpd.policies.identity`."""

    @property
    def name(self) -> str:
        """Name in files and metrics."""
        return f"{self.task.rsplit('/', 1)[-1]}-{self.robot}"

    def result(self) -> dict[str, Any]:
        """Return the result.json of the specialist's run; empty if the run is not complete."""
        return read_json(self.run / "result.json")


@contextmanager
def opened(runs: Sequence[Path], num_envs: int, device: torch.device, threads: int | None) -> Iterator[list[Cell]]:
    """Build the environments and specialists of runs; the environments are closed on exit.

    Raises:
        ConfigError: no runs, a folder that is not a specialist's run, or two specialists of the same robot and task.
        SpecMismatch: a specialist no longer fits its environment; names both sides.
    """
    if not runs:
        raise ConfigError("no specialists: list their runs, e.g. rpd generalist runs/compass/PickCube-*-seed0")
    with ExitStack() as stack:
        cells: dict[tuple[str, str], Cell] = {}
        for run in runs:
            task, config = home(run)
            env = stack.enter_context(
                closing(envs.make(task, config.model_copy(update={"num_envs": num_envs}), device, threads))
            )
            robot = env.spec.embodiment.name
            if (task, robot) in cells:
                raise ConfigError(
                    f"two specialists of {task} on {robot}, {cells[task, robot].run} and {run}: leave out one of them"
                )
            teacher = teachers.make(run, env.spec, device)
            cells[task, robot] = Cell(task, robot, run, env, teacher, teachers.identity(run))
        yield list(cells.values())


@contextmanager
def held_out(
    cells: Sequence[Cell], robots: Sequence[str], device: torch.device, threads: int | None
) -> Iterator[list[VectorEnv]]:
    """Build environments of robots without a specialist, one per robot and task of the specialists.

    Raises:
        ConfigError: no such robot, or a specialist exists for it.
    """
    known = {cell.robot for cell in cells}
    if taken := [robot for robot in robots if robot in known]:
        raise ConfigError(f"held out {', '.join(taken)}: the specialists include it ({', '.join(sorted(known))}): leave it out")
    with ExitStack() as stack:
        made = []
        for task in dict.fromkeys(cell.task for cell in cells):
            cell = next(cell for cell in cells if cell.task == task)
            for robot in robots:
                own = home(cell.run, robot)[1].model_copy(update={"num_envs": cell.env.num_envs})
                made.append(stack.enter_context(closing(envs.make(task, own, device, threads))))
        yield made


def home(run: Path, robot: str | None = None) -> tuple[str, EnvConfig]:
    """Return the task and environment of a specialist's run, for its own robot or another.

    Raises:
        ConfigError: the folder is not a run, or is the run of a generalist.
    """
    if trained_path(run) is None or not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a specialist's run: it has no config.yaml")
    if is_generalist_run(run):
        raise ConfigError(f"{run} is the run of a generalist: use the runs of its specialists")
    spec = made_for(run)
    return spec.task, with_teacher_cameras(config_for(spec, robot=robot), base_of(run))
