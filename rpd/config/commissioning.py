"""Configuration of `rpd robot check`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict, Field

TASK = "tabletop/PickCube"
"""Task of a commissioning without a policy."""


class BoardConfig(BaseModel):
    """A printed ChArUco board of OpenCV."""

    model_config = ConfigDict(extra="forbid")

    columns: int = Field(7, ge=3, le=30)
    """Squares along x."""
    rows: int = Field(5, ge=3, le=30)
    """Squares along y."""
    square: float = Field(0.03, gt=0, le=1)
    """Side of a square, m: measure it on the print."""
    marker: float = Field(0.022, gt=0, le=1)
    """Side of a marker, m."""
    dictionary: str = "DICT_4X4_50"
    """OpenCV's name of the dictionary of markers."""


class CheckConfig(BaseModel):
    """Commissioning of a robot, see docs/commissioning.md."""

    model_config = ConfigDict(extra="forbid")

    robot: tyro.conf.Positional[str]
    """Robot that ships (see configs/robots), or a YAML file of your own, with which to begin."""
    driver: str | None = None
    """Driver of your own, FILE.py:Class, in place of the one in the robot's file."""
    host: str | None = None
    """Address of the robot; it is written to the new robot file."""
    policy: str | None = None
    """Policy of the first dry run, as for `rpd deploy`; its cameras and its training pictures are compared with yours."""
    task: str | None = None
    """Task of the pictures and of robot sim; default: that of the policy, or tabletop/PickCube."""
    out: Path | None = None
    """Robot file to write; default: ROBOT-checked.yaml."""
    folder: Path | None = None
    """Folder of the progress, the pictures and the measurements; default: runs/check-ROBOT."""
    again: tuple[str, ...] = ()
    """Steps to repeat, e.g. joints; see `rpd robot check --help`."""
    board: BoardConfig = Field(default_factory=BoardConfig)
    estop_file: Path = Path("ESTOP")
    """File that stops the robot as soon as it exists; any key and Ctrl-C stop it too."""
