"""Options of `rpd sweep`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict, Field


class SweepOptions(BaseModel):
    """Train every (task, robot, seed) of a file, or resume interrupted ones; prints one table."""

    model_config = ConfigDict(extra="forbid")

    file: tyro.conf.Positional[Path]
    """YAML with out, tasks, robots, seeds, base or init, and settings, e.g. configs/experiments/compass/tabletop.yaml."""
    jobs: int | None = Field(None, ge=1)
    """Parallel runs, each on one core; default: one per GPU, or per core without a GPU."""
    out: Path | None = None
    """Folder of the runs, overrides the file's."""
