"""A commissioning, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rpd.config.commissioning import CheckConfig
from rpd.deploy.commissioning.console import Console
from rpd.deploy.commissioning.progress import Progress
from rpd.deploy.commissioning.station import Station


@dataclass
class Walk:
    """A commissioning."""

    station: Station
    console: Console
    progress: Progress
    options: CheckConfig
    folder: Path
    out: Path
    """Robot file to write."""


@dataclass(frozen=True)
class Step:
    """A step."""

    name: str
    about: str
    """Purpose, one line."""
    run: Callable[[Walk], str]
    """Runs it, and returns a summary of one line.

    Raises:
        StepFailed, Stop, Unsafe, RunFault, ConfigError: it is not done.
    """
