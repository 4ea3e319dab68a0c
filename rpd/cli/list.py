"""`rpd list`: list tasks, suites, robots, cameras, teachers, distillation terms, methods and settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, get_args

from rich.table import Table

from rpd.cli.options.listing import ListOptions
from rpd.config.divergences import divergence_names
from rpd.config.gates import GATES, NONE
from rpd.config.loader import COMMON, METHODS, RESIDUAL, method_names, method_settings
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import TaskInfo, list_tasks, unlisted
from rpd.evaluation.suites import SUITES
from rpd.reporting.tables import show, table
from rpd.teachers.registry import list_teachers

if TYPE_CHECKING:
    from importlib.abc import Traversable

Rows = Sequence[tuple[str, ...]]
OF_SIMULATORS = ("all", "tasks", "robots")
"""Parts of the list that are incomplete if a simulator is not installed."""
ROBOTS = "robots"
"""Folder of the shipped settings of robots."""
PATTERN_WIDTH = 34
"""Width of a teacher's pattern, which leaves room for its description in a terminal of 80 columns."""


def main(options: ListOptions) -> int:
    """Print the list; returns the exit code.

    Raises:
        ConfigError: no row contains the pattern; or more than a part and a pattern are given.
    """
    if options.unexpected:
        raise ConfigError(f"unexpected '{options.unexpected[0]}': one of {', '.join(PARTS)}, and a text that a row must have")
    parts = PARTS if options.part == "all" else {options.part: PARTS[options.part]}
    tables = [found for part in parts.values() for found in part(options.pattern.lower()) if found.row_count]
    missing = [f"not listed: {error}" for error in unlisted()] if options.part in OF_SIMULATORS else []
    if not tables:
        raise ConfigError("; ".join([f"nothing in `rpd list {options.part}` contains '{options.pattern}'", *missing]))
    for found in tables:
        show(found)
    for line in missing:
        print(line)
    return 0


def _tasks(pattern: str) -> Iterator[Table]:
    """One table per simulator; properties that all its tasks share are in the title."""
    for simulator, members in itertools.groupby(list_tasks(), lambda task: task.name.split("/")[0]):
        tasks = list(members)
        columns = {"robots": [" ".join(t.robots) for t in tasks], "cameras": [" ".join(t.cameras) for t in tasks]}
        same = {name: cells[0] for name, cells in columns.items() if len(set(cells)) == 1}
        own = {name: cells for name, cells in columns.items() if name not in same}
        own["instruction"] = [t.instruction for t in tasks]
        title = "; ".join([f"Tasks of {simulator}", *(f"{name}: {text}" for name, text in same.items() if text)])
        rows = list(zip([t.name for t in tasks], *own.values(), strict=True))
        yield _table(title, ("task", *own), rows, pattern)


def _robots(pattern: str) -> Iterator[Table]:
    by_robot: dict[tuple[str, str], list[TaskInfo]] = {}
    for task in list_tasks():
        for robot in task.robots:
            by_robot.setdefault((robot, task.name.split("/")[0]), []).append(task)
    rows = [(robot, simulator, f"{len(tasks)}, e.g. {tasks[0].name}") for (robot, simulator), tasks in by_robot.items()]
    yield _table("Robots (--robot)", ("robot", "simulator", "tasks"), rows, pattern)


def _cameras(pattern: str) -> Iterator[Table]:
    from rpd.envs.robots import ROBOTS as BODIES
    from rpd.envs.tabletop.camera_poses import cameras

    rows = [(name, robot, str(camera.viewpoint)) for robot, body in BODIES.items() for name, camera in cameras(body).items()]
    yield _table("Cameras of tabletop (--env.cameras)", ("camera", "robot", "viewpoint"), rows, pattern)


def _suites(pattern: str) -> Iterator[Table]:
    rows = [(suite.name, str(len(suite.tasks)), suite.about) for suite in SUITES.values()]
    yield _table("Suites (rpd eval --suite)", ("suite", "tasks", "what it is"), rows, pattern)


def _teachers(pattern: str) -> Iterator[Table]:
    rows = [(_broken_at_options(name), about) for name, about in list_teachers()]
    yield _table("Teachers (--teacher)", ("name", "what it is"), rows, pattern)


def _broken_at_options(name: str) -> str:
    """Break the pattern of a teacher's name in front of its optional parts: ``octo:FOLDER`` / ``[,action_mapping=NAME]``."""
    lines = [""]
    for part in re.split(r"(?=\[)", name):
        if len(lines[-1] + part) > PATTERN_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _distillation(pattern: str) -> Iterator[Table]:
    choices = {"divergence": divergence_names(), "gate": [NONE, *GATES]}
    choices["schedule"] = list(get_args(DistillConfig.model_fields["schedule"].annotation))
    rows = [(f"--distill.{name}", " ".join(values)) for name, values in choices.items()]
    yield _table("Distillation", ("option", "values"), rows, pattern)


def _methods(pattern: str) -> Iterator[Table]:
    """One row per published method: its paper, where the teacher enters, and what it needs of a teacher."""
    from rpd.algorithms.distillation.gate_product import needs_of

    rows = []
    for name in method_names():
        config = DistillConfig(**method_settings(name).settings["distill"])
        text = resources.files("rpd.configs").joinpath(METHODS).joinpath(f"{name}.yaml").read_text()
        paper, gate = text.partition("\n")[0].strip("# "), config.gate.replace(",", ", ")
        rows.append((name, paper, *needs_of(config), gate, config.schedule))
    columns = ("method", "paper", "divergence", "teacher enters", "teacher gives", "gate", "schedule")
    yield _table("Methods (rpd train --method)", columns, rows, pattern)


def _settings(pattern: str) -> Iterator[Table]:
    known = {task.name for task in list_tasks()}
    root = resources.files("rpd.configs")
    rows = [(name, _used_by(name, known)) for name in sorted(_yaml_files(root, "configs"))]
    yield _table("Settings", ("file", "used by"), rows, pattern)


def _yaml_files(folder: Traversable, name: str) -> Iterator[str]:
    """Paths of the YAML files below a shipped folder."""
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _yaml_files(entry, path)
        elif path.endswith(".yaml"):
            yield path


def _used_by(path: str, tasks: Container[str]) -> str:
    """The command that reads a settings file that ships."""
    *_, folder, file = path.split("/")
    stem = file.removesuffix(".yaml")
    if file == RESIDUAL:
        return "rpd residual"
    if folder == ROBOTS:
        return f"rpd deploy POLICY --robot {stem}"
    if file == COMMON:
        return f"rpd train {folder}/..."
    if folder == METHODS:
        return f"rpd train TASK --method {stem}"
    if f"{folder}/{stem}" in tasks:
        return f"rpd train {folder}/{stem}"
    return "rpd sweep FILE" if folder == "compass" else f"rpd train {stem}/... --config FILE"


def _table(title: str, columns: tuple[str, ...], rows: Rows, pattern: str) -> Table:
    """A table of the rows that contain the pattern; what is to be typed, in the first column, stays in one piece."""
    listed = table(title, *columns, whole=columns[:1])
    for row in rows:
        if pattern in "\n".join(row).lower():
            listed.add_row(*row)
    return listed


PARTS: dict[str, Callable[[str], Iterator[Table]]] = {
    "tasks": _tasks,
    "suites": _suites,
    "robots": _robots,
    "cameras": _cameras,
    "teachers": _teachers,
    "distillation": _distillation,
    "methods": _methods,
    "settings": _settings,
}
