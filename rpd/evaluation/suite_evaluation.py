"""Evaluate a policy by reference on every task of a suite."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rpd.config.evaluation import EvalConfig
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.rebuild import words
from rpd.evaluation import suites
from rpd.evaluation.environments import environments
from rpd.evaluation.measure import checked_options, result_folders
from rpd.evaluation.suite_runner import SuiteRun
from rpd.evaluation.suite_runner import run as run_suite
from rpd.evaluation.suites import Shard, Suite
from rpd.policies.identity import identity
from rpd.policies.made_for import made_for
from rpd.students.io.outputs import made
from rpd.teachers.refs import parse, trained_path

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteEvaluation:
    """Results of a suite.

    Attributes:
        summary: contents of eval.json: ``n``, ``successes``, ``rate``, ``interval`` and the like of all episodes, and a list
            ``tasks`` with the same for each task.
        folder: result folder; the same evaluation with ``out=folder`` adds missing episodes.
        expected: number of episodes of the whole suite; more than ``summary["n"]`` if a shard is missing.
    """

    summary: dict[str, Any]
    folder: Path
    expected: int


def evaluate_suite(policy: str | Path, suite: str, *, out: Path | str | None = None, **options: Any) -> SuiteEvaluation:
    """Evaluate a policy on every task of a suite.

    Args:
        policy: policy reference, e.g. ``"runs/x"``.
        suite: e.g. ``"libero_spatial"``, see ``rpd list suites``.
        out: result folder, new or of an interrupted evaluation; None: ``eval/<time>`` in the policy's run, or
            ``runs/eval-<time>-<policy>`` without one.
        options: further options of `rpd eval`, e.g. ``episodes=50`` (per task), ``shard="1/4"``, ``num_envs=8``.

    Raises:
        ConfigError: unknown policy, suite or option, or `out` holds another evaluation.
        SpecMismatch: the policy does not fit an environment; names both sides.
        RunFault: NaN from an environment or the policy.
    """
    values = {"video": False, **options, "policy": parse(policy).text, "suite": suite, "out": out}
    return measure_suite(checked_options("evaluate_suite", values, without=("other",)))


def measure_suite(options: EvalConfig) -> SuiteEvaluation:
    """Evaluate the policy of `options` on its suite, and save the results.

    Raises:
        ConfigError: an option is invalid or does not apply to the suite; raised before the first episode.
        SpecMismatch: the policy does not fit an environment.
        RunFault: see `rpd.evaluation.evaluate.evaluate`.
    """
    what = suite_run(options)
    shard = Shard.parse(options.shard) if options.shard else Shard()
    with result_folder(options) as folder:
        LOG.info(f"results: {folder}; if interrupted, the same command with --out {folder} continues")
        summary = run_suite(what, folder, shard, options.device, options.num_threads, options.video)
    return SuiteEvaluation(summary, folder, options.episodes * len(what.suite.tasks))


def suite_run(options: EvalConfig) -> SuiteRun:
    """Build the evaluation that `options` describe, without loading the policy.

    Raises:
        ConfigError: an option is invalid or does not apply to the suite.
    """
    suite, name = _suite(options), options.policy
    configs = {}
    for task in suite.tasks:
        _, (config,) = environments(options.model_copy(update={"task": task}), [name])
        configs[task] = config.model_copy(update={"max_episode_steps": options.max_episode_steps, **suite.env})
    if (path := trained_path(name)) is not None:
        LOG.info(f"{name} was trained on {made_for(path).task}; each task of the suite has its own episode length")
    return SuiteRun(suite, name, options.episodes, options.seed, configs, options.sampler, identity(name))


def result_folder(options: EvalConfig) -> AbstractContextManager[Path]:
    """Result folder of an evaluation of one policy on a suite: `out`, which shards share, or a new one."""
    return result_folders(options)[0] if options.out is None else _shared_folder(options.out)


def _suite(options: EvalConfig) -> Suite:
    """Suite of the options, restricted to their task if one is given.

    Raises:
        ConfigError: unknown suite or task, or an option that the suite fixes to another value.
    """
    suite = suites.find(options.suite or "")
    if options.other is not None:
        raise ConfigError("--suite evaluates one policy: leave out the second")
    if options.task is not None:
        if options.task not in suite.tasks:
            raise unknown_name(f"task of {suite.name}", options.task, suite.tasks)
        suite = replace(suite, tasks=(options.task,))
    for key, value in suite.env.items():
        if getattr(options, key, None) not in (None, value):
            raise ConfigError(
                f"--{key.replace('_', '-')}: suite {suite.name} is evaluated with {key} {words(value)}: leave it out"
            )
    return suite


@contextlib.contextmanager
def _shared_folder(folder: Path) -> Iterator[Path]:
    """Result folder that several shards may write at the same time."""
    with made(folder):
        yield folder
