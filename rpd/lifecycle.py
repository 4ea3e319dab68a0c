"""The life of a run's folder, whichever command it belongs to: claimed, continued, seen through."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from envs.errors import ConfigError, NonFiniteError, RunFault
from rpd import checkpoint
from rpd.trainer import EVIDENCE
from students.locate import checkpoint_steps

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Trains(Protocol):
    """Whatever learns in a folder."""

    run_dir: Path

    @property
    def step(self) -> int:
        """Steps so far."""

    def run(self) -> bool:
        """Go on to the end, or until interrupted; returns whether the run is complete."""


def claim(run_dir: Path, command: str) -> None:
    """See that a new run finds an empty folder, or none.

    Raises:
        ConfigError: there is one already; `command`, e.g. ``rpd train``, is what continues it.
    """
    if any(not path.name.startswith(".") for path in run_dir.glob("*")):  # the dotted are left by a process that was killed
        raise ConfigError(
            f"{run_dir} exists already: choose another --name, or continue it with '{command} --resume {run_dir}'"
        )


def configuration(run_dir: Path, model: type[ConfigT], command: str) -> ConfigT:
    """Read what a run was told.

    Raises:
        ConfigError: it is no run, or not one of `command`.
    """
    try:
        return model.model_validate(yaml.safe_load((run_dir / "config.yaml").read_text()))
    except OSError:
        raise not_a_run(run_dir) from None
    except (yaml.YAMLError, ValidationError):
        raise ConfigError(f"{run_dir / 'config.yaml'} is not of `{command}`") from None


def not_a_run(run_dir: Path) -> ConfigError:
    """What is wrong with a folder without a configuration."""
    return ConfigError(f"{run_dir} is not a run that can be resumed: it has no config.yaml")


def newest(run_dir: Path) -> checkpoint.Checkpoint | None:
    """Find the checkpoint to go on from, and say what is wrong with newer ones; None: the run stopped before its first.

    Raises:
        ConfigError: there are some, and none is sound.
    """
    if not checkpoint_steps(run_dir / "checkpoints"):
        return None
    saved, problems = checkpoint.newest_sound(run_dir)
    for problem in problems:
        print(f"skipped: {problem}", flush=True)
    return saved


def see_through(trainer: Trains, command: str) -> bool:
    """Run to the end and return True, or say how to continue: return False if interrupted, and leave faults to the caller."""
    run_dir = trainer.run_dir
    again = f"to continue: {command} --resume {run_dir}"
    try:
        complete = trainer.run()
    except (RunFault, OSError, KeyboardInterrupt) as fault:
        if isinstance(fault, NonFiniteError) and (run_dir / EVIDENCE).exists():
            print(f"evidence: {run_dir / EVIDENCE}")
        print(again, flush=True)
        raise
    if not complete:
        print(f"stopped at {trainer.step:,} steps, {again}", flush=True)
    return complete
