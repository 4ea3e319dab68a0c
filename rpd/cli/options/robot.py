"""Options of `rpd robot`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict

from rpd.config.commissioning import TASK, CheckConfig


class CheckOptions(CheckConfig):
    """Bring a robot into service: from its first connection to a first dry run, step by step; what is done is remembered."""


class ContractOptions(BaseModel):
    """Check a robot driver against the contract of drivers; the arm moves each joint by 0.03 rad."""

    model_config = ConfigDict(extra="forbid")

    driver: tyro.conf.Positional[str]
    """FILE.py:Class, or the name of a driver that ships, e.g. sim."""
    robot: str
    """Robot that ships (see configs/robots), or a YAML file of your own: limits, rate, connection."""
    host: str | None = None
    """Address of the robot, overrides the one in its file."""
    task: str = TASK
    """sim: task."""
    move: bool = True
    """Check commands too; False: read only."""
    estop_file: Path = Path("ESTOP")
    """File that stops the robot as soon as it exists; any key and Ctrl-C stop it too."""
