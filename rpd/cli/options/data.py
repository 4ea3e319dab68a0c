"""Options of `rpd data`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict


class DataOptions(BaseModel):
    """Show demonstrations, or export them."""

    model_config = ConfigDict(extra="forbid")

    what: tyro.conf.Positional[Literal["show", "export"]]
    """show: tasks, episodes, cameras, actions, instructions, size; export: write them in another format."""
    path: tyro.conf.Positional[Path]
    """Folder of `rpd data collect`, LeRobotDataset v3, trajectory file of ManiSkill or a folder of such files, or a recording
    of `rpd deploy`."""
    format: Literal["lerobot"] = "lerobot"
    """export: LeRobotDataset v3."""
    out: Path | None = None
    """export: folder to write."""
    tasks: tuple[str, ...] | None = None
    """Tasks to select; default: all."""
