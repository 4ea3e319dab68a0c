"""The specialists, and where each of them plays: one environment per robot and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from rpd.policies import trained
from rpd.runs import distilled, read_json
from rpd.settings import file_settings, validate
from rpd.views import shown_to
from students import pretrained
from students.locate import resolve_policy
from teachers import registry as teachers
from teachers.base import Teacher


@dataclass(frozen=True)
class Cell:
    """A robot at a task, with the specialist who knows how."""

    task: str
    robot: str
    run: Path
    env: VectorEnv
    teacher: Teacher

    @property
    def name(self) -> str:
        """Of files and metrics."""
        return f"{self.task.rsplit('/', 1)[-1]}-{self.robot}"

    def result(self) -> dict[str, Any]:
        """What the specialist's own run says, empty where it is not complete."""
        return read_json(self.run / "result.json")


@contextmanager
def opened(runs: Sequence[Path], num_envs: int, device: torch.device, threads: int | None) -> Iterator[list[Cell]]:
    """Build the environments and specialists of runs; they are closed in the end.

    Raises:
        ConfigError: none, something that is not a specialist's run, or two of one robot and task.
        SpecMismatch: a specialist does not fit its environment any more; names both sides.
    """
    if not runs:
        raise ConfigError("no specialists: name their runs, e.g. rpd distill runs/compass/PickCube-*-seed0")
    with ExitStack() as stack:
        cells: dict[tuple[str, str], Cell] = {}
        for run in runs:
            task, config = home(run)
            env = stack.enter_context(
                closing(envs.make(task, config.model_copy(update={"num_envs": num_envs}), device, threads))
            )
            robot = env.spec.embodiment.name
            if (task, robot) in cells:
                raise ConfigError(f"two specialists of {task} on {robot}, {cells[task, robot].run} and {run}: name one of them")
            teacher = teachers.make(f"policy:{run}", env.spec, device)
            cells[task, robot] = Cell(task, robot, run, env, teacher)
        yield list(cells.values())


@contextmanager
def held_out(
    cells: Sequence[Cell], robots: Sequence[str], device: torch.device, threads: int | None
) -> Iterator[list[VectorEnv]]:
    """Build environments of robots without a specialist, one per robot and task of the specialists.

    Raises:
        ConfigError: there is no such robot, or a specialist has it.
    """
    known = {cell.robot for cell in cells}
    if taken := [robot for robot in robots if robot in known]:
        raise ConfigError(f"held out {', '.join(taken)}: the specialists have it ({', '.join(sorted(known))}): leave it out")
    with ExitStack() as stack:
        made = []
        for task in dict.fromkeys(cell.task for cell in cells):
            cell = next(cell for cell in cells if cell.task == task)
            _, config = home(cell.run)
            for robot in robots:
                own = config.model_copy(update={"robot": robot, "num_envs": cell.env.num_envs})
                made.append(stack.enter_context(closing(envs.make(task, own, device, threads))))
        yield made


def home(run: Path) -> tuple[str, EnvConfig]:
    """Task and environment of a specialist's run.

    Raises:
        ConfigError: it is no run, or one without a policy of one robot.
    """
    if trained(str(run)) is None or not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a specialist's run: it has no config.yaml")
    if distilled(run):
        raise ConfigError(f"{run} is itself distilled from specialists: name their runs")
    config = validate(file_settings(run / "config.yaml"), str(run / "config.yaml"))
    base = pretrained.describe(resolve_policy(run)).base
    return config.task, shown_to(config.env, base if isinstance(base, str) else None)
