"""`rpd eval --suite --shards`: the shards of an evaluation as processes of a launcher, merged in one folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rpd.config.evaluation import EvalConfig
from rpd.config.launch import LaunchConfig
from rpd.core.interrupt import Interrupted
from rpd.envs.errors import ConfigError, RunFault
from rpd.evaluation import suite_runner
from rpd.evaluation.suite_evaluation import SuiteEvaluation, result_folder, suite_run
from rpd.evaluation.suite_runner import LOGS
from rpd.evaluation.suites import Shard
from rpd.launch.base import Launcher
from rpd.launch.job import Job
from rpd.launch.pool import Pool
from rpd.students.io.locks import LOCK, locked

LOG = logging.getLogger(__name__)


def measure_shards(
    options: EvalConfig, shards: int, launcher: Launcher, resources: LaunchConfig, at_once: int | None = None
) -> SuiteEvaluation:
    """Run the missing episodes of a suite in several processes, and merge them.

    Args:
        options: the evaluation.
        shards: number of parts; one process each, except for parts that are complete.
        launcher: where the processes run.
        resources: CPUs and GPUs of each.
        at_once: processes at a time; None: the launcher's default.

    Raises:
        ConfigError: see `measure_suite`, or the launcher refuses the processes; raised before the first episode.
        RunFault: a shard failed; names its log.
        Interrupted: the user stopped the evaluation; the same command with ``out=folder`` continues.
    """
    what = suite_run(options)
    claim: AbstractContextManager[Path] = result_folder(options)
    with claim as folder, _driving(folder):
        suite_runner.check(what, folder)
        parts = [Shard(i, shards) for i in range(1, shards + 1)]
        jobs = [_job(options, part, folder, resources) for part in parts if suite_runner.missing(what, folder, part)]
        pool = Pool(launcher, jobs, folder, at_once)
        LOG.info(f"results: {folder}; if interrupted, the same command with --out {folder} continues")
        _run(pool)
        return SuiteEvaluation(suite_runner.summarize(what, folder), folder, options.episodes * len(what.suite.tasks))


def _run(pool: Pool) -> None:
    """Run the shards; failures and interruptions are raised when all have ended."""
    failed = []
    for outcome in pool.outcomes():
        state = "failed" if outcome.failed else "stopped" if outcome.ended.code else "done"
        LOG.info(f"{outcome.job.name}: {state}; {outcome.progress}")
        failed += [outcome] if outcome.failed else []
    for outcome in failed[:-1]:
        LOG.warning(outcome.failure)
    if failed:
        raise RunFault(failed[-1].failure)
    if pool.interrupted:
        raise Interrupted


def _job(options: EvalConfig, part: Shard, folder: Path, resources: LaunchConfig) -> Job:
    name = f"shard-{part.index}-of-{part.count}"
    own = options.model_copy(update={"num_threads": options.num_threads or resources.cpus_per_run})
    return Job(
        name=name,
        words=("eval", *arguments(own), "--shard", f"{part.index}/{part.count}", "--out", str(folder)),
        log=folder / LOGS / f"{name}.log",
        lock=suite_runner.lock_of(folder, part),
        cpus=resources.cpus_per_run,
        gpus=resources.gpus_per_run,
    )


def arguments(options: EvalConfig) -> list[str]:
    """Arguments of ``rpd eval`` for an evaluation of one policy, without its folder and its part."""
    words = [options.policy]
    for name, field in EvalConfig.model_fields.items():
        value = getattr(options, name)
        if name in ("policy", "other", "shard", "out") or value == field.default:
            continue
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@contextlib.contextmanager
def _driving(folder: Path) -> Iterator[None]:
    """Keep a second driver out of the folder; shards that run by hand may write to it."""
    with locked(folder / f".shards{LOCK}", folder):
        yield


def check_options(options: EvalConfig, shards: int) -> None:
    """Reject options that do not go with shards.

    Raises:
        ConfigError: names the option.
    """
    if options.suite is None:
        raise ConfigError(f"--shards {shards}: shards are parts of a suite: add --suite, e.g. --suite libero_spatial")
    if options.shard is not None:
        raise ConfigError(f"--shards {shards} starts every shard: leave out --shard {options.shard}")
