"""LIBERO's tasks by suite and number, or by what is to be done: ``libero/spatial-3``, ``libero/goal``, ``libero/...``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import ConfigError, unknown_name
from envs.registry import TaskInfo
from envs.workers.backend import cores

PREFIX = "libero/"
LIMITS = {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}
"""Suites, and the control steps that an evaluation allows in each: a little more than the longest demonstration takes
(OpenVLA's evaluation, arXiv 2406.09246, whose protocol others follow)."""
CAMERAS = ("agentview", "robot0_eye_in_hand")
ROBOTS = ("panda",)
PACKAGES = "pip install 'rpd[libero]'"


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        suite: ``spatial``, ``object``, ``goal``, ``10`` or ``90``.
        number: within its suite.
        language: its instruction.
    """

    suite: str
    number: int
    language: str

    @property
    def name(self) -> str:
        """Name in the registry, e.g. ``libero/spatial-3``."""
        return f"{PREFIX}{self.suite}-{self.number}"


def list_tasks() -> list[TaskInfo]:
    """Every task of the five suites.

    Raises:
        ConfigError: LIBERO is not installed.
    """
    return [_info(task.name, task.language) for suite in LIMITS for task in suite_tasks(suite)]


def find(name: str) -> TaskInfo:
    """Return a task by any of its names, or several of a suite (``libero/spatial``).

    Raises:
        ConfigError: LIBERO is not installed, there is no such task, or several have this instruction.
    """
    chosen = resolve(name)
    return _info(chosen[0].name, chosen[0].language) if len(chosen) == 1 else _info(name, "several tasks")


def resolve(name: str) -> list[Task]:
    """Return the tasks that a name means: one, some or all of a suite.

    Args:
        name: ``libero/spatial-3``, ``libero/spatial-0,3,8``, ``libero/spatial``, or ``libero/`` and an instruction, with
            spaces or underscores.
    """
    words = name.removeprefix(PREFIX)
    if words in LIMITS:
        return list(suite_tasks(words))
    suite, _, numbers = words.rpartition("-")
    if suite and re.fullmatch(r"\d+(,\d+)*", numbers):
        if suite not in LIMITS:
            raise unknown_name("suite of LIBERO", suite, LIMITS)
        tasks, chosen = suite_tasks(suite), [int(number) for number in numbers.split(",")]
        if max(chosen) >= len(tasks):
            raise ConfigError(f"unknown task '{name}': suite {suite} has the tasks {PREFIX}{suite}-0 to -{len(tasks) - 1}")
        return [tasks[number] for number in chosen]
    language = re.sub(r"[\s_]+", " ", words).strip().lower()
    same = [task for each in LIMITS for task in suite_tasks(each) if task.language.lower() == language]
    if len(same) > 1:
        raise ConfigError(f"'{language}' is the instruction of several tasks: {', '.join(task.name for task in same)}")
    if not same:
        names = [task.name for each in LIMITS for task in suite_tasks(each)]
        known = [PREFIX + task.language for each in LIMITS for task in suite_tasks(each)]
        raise unknown_name("task", name, names + known if " " in language else names)
    return same


@functools.cache
def suite_tasks(suite: str) -> tuple[Task, ...]:
    """The tasks of a suite in LIBERO's order."""
    return tuple(Task(suite, i, task.language) for i, task in enumerate(_suite(suite).tasks))


def bddl_file(task: Task) -> Path:
    """The file that says what stands where and what the goal is.

    Raises:
        ConfigError: this distribution of LIBERO came without it, or without meshes.
    """
    theirs = _suite(task.suite).get_task(task.number)
    with _complete():
        libero = importlib.import_module("libero.libero")
        path = Path(libero.get_libero_path("bddl_files")) / theirs.problem_folder / theirs.bddl_file
        for needed in (path, Path(libero.get_libero_path("assets"))):
            if not needed.exists():
                raise FileNotFoundError(f"no {needed}")
    return path


def initial_states(task: Task) -> Any:
    """The initial states [50, D] float64 of a task's evaluation: time, qpos, qvel."""
    with _complete():
        return _suite(task.suite).get_task_init_states(task.number)


@contextlib.contextmanager
def _complete() -> Iterator[None]:
    """Say which package brings the files that are missing."""
    try:
        yield
    except (ImportError, FileNotFoundError) as error:
        raise ConfigError(f"LIBERO's files are missing: {' '.join(str(error).split())}; all of them: {PACKAGES}") from None


def _info(name: str, instruction: str) -> TaskInfo:
    return TaskInfo(name, ROBOTS, CAMERAS, instruction, reward="sparse", together=cores())


@functools.cache
def _suite(suite: str) -> Any:
    if importlib.util.find_spec("libero") is None:
        raise ConfigError(f"LIBERO is not installed: {PACKAGES}")
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        try:
            return importlib.import_module("libero.libero.benchmark").get_benchmark(f"libero_{suite}")()
        except ImportError as error:  # two distributions, or one without its assets
            raise ConfigError(f"LIBERO does not import: {' '.join(str(error).split())}") from None
