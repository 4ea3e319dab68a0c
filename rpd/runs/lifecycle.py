"""Create, resume and complete a run directory; shared by all training commands."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from torch import Tensor

from rpd.config.resume import check_complete, reconcile
from rpd.core.distributed import SOLO, World
from rpd.core.interrupt import Interrupted
from rpd.core.user_code import record_imports
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError, NonFiniteError, RunFault, unknown_name
from rpd.runs import checkpoint, evidence
from rpd.runs.reader import valid_result
from rpd.students.io.locks import LOCK, locked
from rpd.students.io.outputs import claimed, claimed_unused, similar_runs
from rpd.students.io.policy_path import checkpoint_steps

LOG = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Trainer(Protocol):
    """A training loop, see `rpd.training.loop`."""

    run_dir: Path
    world: World

    @property
    def step(self) -> int:
        """Steps so far."""

    def run(self) -> bool:
        """Train to the end or until interrupted; returns whether the run is complete."""

    def evidence(self) -> dict[str, Tensor]:
        """Tensors to inspect after NaN has stopped the run, by name: the newest batch, if any, and the weights."""


@contextlib.contextmanager
def create_run_dir(runs_dir: Path, name: str | None, stem: str, command: str) -> Iterator[Path]:
    """Create and lock the folder of a new run; it is removed again if it stays empty.

    Args:
        runs_dir: folder of the runs.
        name: name of the run's folder; None: `stem` and the time, plus a number if that exists.
        stem: prefix of the generated name.
        command: command that resumes the run, e.g. ``rpd train``.

    Raises:
        ConfigError: a run of this name exists, or another process is starting it.
    """
    if name is None:
        with claimed_unused(runs_dir, f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}") as run_dir:
            yield run_dir
        return
    run_dir = runs_dir / name
    taken = f"{run_dir} exists already: choose another --name, or continue it with '{command} --resume {run_dir}'"
    with claimed(run_dir, taken):
        yield run_dir


@contextlib.contextmanager
def on_all_ranks(world: World, opened: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    """Open a run's folder at rank 0, for all ranks, until the block ends.

    Args:
        world: the ranks.
        opened: returns the context that creates or locks the folder, see `create_run_dir` and `lock_run_dir`.

    Raises:
        ConfigError: see `opened`; or the ranks do not share the folder.
    """
    with contextlib.ExitStack() as stack:
        here: list[Path] = []

        def enter() -> str:
            here.append(stack.enter_context(opened()))
            return str(here[0].absolute())

        shared = world.first(enter)
        run_dir = here[0] if here else Path(shared)
        _check_shared(world, run_dir)
        yield run_dir


def _check_shared(world: World, run_dir: Path) -> None:
    """Check that every rank sees a file that rank 0 writes."""
    if world.size == 1:
        return

    def write_token() -> str:
        token = run_dir / f".ranks-{os.getpid()}-{time.time_ns()}"
        token.touch()
        return token.name

    token = run_dir / world.first(write_token)
    seen = world.gather(token.exists())
    if world.is_first:
        token.unlink()
    if not all(seen):
        raise world.fault(
            f"rank {seen.index(False)} of {world.size} does not see {run_dir.absolute()}: put --runs-dir on a file system that "
            "all machines of the run share"
        )


@contextlib.contextmanager
def lock_run_dir(run_dir: Path) -> Iterator[Path]:
    """Lock the folder of a run that is resumed, and return it.

    Raises:
        ConfigError: the folder is not a run that can be resumed, another process is writing it, or another version of rpd made
            it; one line.
    """
    check_run_dir(run_dir)
    with locked(run_dir / LOCK, run_dir):
        yield run_dir


def check_run_dir(run_dir: Path) -> None:
    """Check that a folder has a run's configuration, and training state of this version's format.

    Raises:
        ConfigError: it has not; names runs of similar names, or the version.
    """
    if not run_dir.exists() and (runs := similar_runs(run_dir)):
        raise unknown_name("run", str(run_dir), runs)
    if not (run_dir / "config.yaml").is_file():
        raise not_a_run(run_dir)
    checkpoint.check_format(run_dir)


def load_run_config(run_dir: Path, model: type[ConfigT], command: str) -> ConfigT:
    """Read a run's configuration.

    Raises:
        ConfigError: the folder is not a run of `command`, or config.yaml is truncated or not YAML.
    """
    record_imports(run_dir)
    try:
        text = (run_dir / "config.yaml").read_text()
        check_complete(run_dir / "config.yaml", text)
        return model.model_validate(unique_yaml.load(text, str(run_dir / "config.yaml")))
    except OSError:
        raise not_a_run(run_dir) from None
    except ValidationError:
        raise ConfigError(f"{run_dir / 'config.yaml'} is not of `{command}`") from None


def not_a_run(run_dir: Path) -> ConfigError:
    """Build the error for a folder without a configuration."""
    return ConfigError(f"{run_dir} is not a run that can be resumed: it has no config.yaml")


def load_latest_checkpoint(run_dir: Path, config: BaseModel, world: World = SOLO) -> checkpoint.Checkpoint | None:
    """Load the checkpoint to resume from; log problems of newer ones, and options that were edited in config.yaml since.

    If another number of ranks wrote it, log the consequence.

    Returns:
        None: the run stopped before its first checkpoint.

    Raises:
        ConfigError: checkpoints exist but none is valid; or config.yaml changes an option that must not change within a run.
    """
    if not checkpoint_steps(run_dir / "checkpoints"):
        return None
    saved, problems = checkpoint.latest_valid_checkpoint(run_dir, world)
    for problem in problems:
        LOG.warning(f"skipped: {problem}")
    if changes := reconcile(run_dir / "config.yaml", config, saved.meta["config"]):
        LOG.info(f"edited in config.yaml since the checkpoint: {', '.join(changes)}")
    if saved.own is None:
        LOG.warning(
            f"the checkpoint is of {saved.ranks} ranks, and this run has {world.size}: the environments start new episodes "
            "with new random numbers; results differ from an uninterrupted run"
        )
    return saved


def is_complete(run_dir: Path, total_steps: int) -> bool:
    """Whether a run has the result of its full length, not only of an earlier, shorter one.

    Args:
        run_dir: the run's folder.
        total_steps: configured length of the run.
    """
    result = valid_result(run_dir)
    if not result and (run_dir / "result.json").exists():
        LOG.warning(f"{run_dir / 'result.json'} is damaged: the final evaluation is repeated")
    return bool(result) and result["steps"] >= total_steps


def run_to_completion(trainer: Trainer, command: str) -> None:
    """Train to the end; if the run stops early, log how to resume it.

    The result of an earlier, shorter run is kept as ``result-<steps>.json``.

    Args:
        trainer: the run.
        command: command that resumes it, e.g. ``rpd train``.

    Raises:
        Interrupted: stopped by SIGINT or SIGTERM, with a checkpoint.
        RunFault: the run cannot continue.
        OSError: the run's folder cannot be written.
    """
    run_dir = trainer.run_dir
    launcher = "torchrun ... -m " if trainer.world.size > 1 else ""
    again = f"to continue: {launcher}{command} --resume {run_dir}"
    with trainer.world.together():
        if trainer.world.is_first and (earlier := valid_result(run_dir)):
            os.replace(run_dir / "result.json", run_dir / f"result-{earlier['steps']}.json")
    try:
        complete = trainer.run()
    except (RunFault, OSError, KeyboardInterrupt) as fault:
        # a loss is NaN on all ranks at once, other values on one
        if isinstance(fault, NonFiniteError) and (trainer.world.is_first or fault.source != "loss"):
            with contextlib.suppress(OSError):  # a full disk must not hide the fault
                LOG.warning(f"evidence: {evidence.write(run_dir, fault, trainer.step, trainer.evidence())}")
        LOG.info(again)
        raise
    if not complete:
        LOG.info(f"stopped at {trainer.step:,} steps, {again}")
        raise Interrupted
