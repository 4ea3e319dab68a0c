"""Runs of `rpd generalist` and `rpd teacher finetune`: started or resumed in a folder, shown, and copied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rpd.cli.options.run_folder import RunFolderOptions
from rpd.config import resume as resuming
from rpd.config.generalist import DistillRun
from rpd.config.vla_finetuning import CloneConfig
from rpd.core.distributed import World
from rpd.core.joining import joined, rank_device
from rpd.core.ranks import rank
from rpd.envs.errors import ConfigError
from rpd.reporting.report_file import REPORT, is_whole
from rpd.runs import checkpoint, lifecycle
from rpd.runs.result_store import ResultStore, open_store
from rpd.runs.same_program import same_run

LOG = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", DistillRun, CloneConfig)


@dataclass(frozen=True)
class Kind(Generic[ConfigT]):
    """A command: the parts that differ."""

    command: str
    """E.g. ``rpd generalist``."""
    config: type[ConfigT]
    trainer: Callable[[ConfigT, Path, checkpoint.Checkpoint | None, World], AbstractContextManager[lifecycle.Trainer]]
    """Makes a trainer, and closes what it uses."""
    show: Callable[[Path, ConfigT], None]
    """Prints the result of a complete run, and writes its report."""


def start(kind: Kind[ConfigT], options: RunFolderOptions, config: ConfigT, stem: str) -> int:
    """Train in a new folder; returns the exit code.

    Args:
        kind: the command.
        options: where the run and its copy are.
        config: the run's configuration.
        stem: prefix of a generated name.

    Raises:
        ConfigError: see `lifecycle.create_run_dir` and `open_store`.
    """
    store = open_store(options.results)
    with (
        joined(rank_device(config.device)) as world,
        same_run(
            world, config, lambda: lifecycle.create_run_dir(options.runs_dir, options.name, stem, kind.command)
        ) as run_dir,
    ):
        return _complete(kind, config, run_dir, None, world, store)


def resume(kind: Kind[ConfigT], options: RunFolderOptions, run_dir: Path) -> int:
    """Resume from the latest valid checkpoint; returns the exit code.

    Args:
        kind: the command.
        options: options with those of the configuration, see `run_options`.
        run_dir: the run's folder.

    Raises:
        ConfigError: no run to resume, or an option that must not change within a run.
    """
    store = open_store(options.results)
    lifecycle.check_run_dir(run_dir)
    config = lifecycle.load_run_config(run_dir, kind.config, kind.command)
    wanted = kind.config.model_validate(options.model_dump(include=set(kind.config.model_fields)))
    with (
        joined(rank_device(wanted.device)) as world,
        same_run(world, wanted, lambda: lifecycle.lock_run_dir(run_dir)),
    ):
        saved = lifecycle.load_latest_checkpoint(run_dir, config, world)
        changes = resuming.changes(run_dir, config, wanted)
        if lifecycle.is_complete(run_dir, wanted.total_steps):
            done = f"{run_dir} is complete: {wanted.total_steps:,} steps"
            if changes:
                raise ConfigError(f"{done}, {changes[0]}: ask for more steps to go on")
            LOG.info(done)
            return _finish(kind, wanted, run_dir, store, shown=is_whole(run_dir / REPORT))
        if changes:
            LOG.info(f"changed: {', '.join(changes)}")
        if saved is not None:
            LOG.info(f"resuming {run_dir} at {saved.step:,} steps")
        return _complete(kind, wanted, run_dir, saved, world, store)


def _complete(
    kind: Kind[ConfigT],
    config: ConfigT,
    run_dir: Path,
    saved: checkpoint.Checkpoint | None,
    world: World,
    store: ResultStore | None,
) -> int:
    with kind.trainer(config, run_dir, saved, world) as trainer:
        lifecycle.run_to_completion(trainer, kind.command)
    return _finish(kind, config, run_dir, store)


def _finish(kind: Kind[ConfigT], config: ConfigT, run_dir: Path, store: ResultStore | None, shown: bool = False) -> int:
    """Show a complete run and copy it, at rank 0; returns the exit code."""
    if rank() == 0:
        if not shown:
            kind.show(run_dir, config)
        if store is not None:
            print(store.copied(run_dir, run_dir.resolve().name), flush=True)
    return 0
