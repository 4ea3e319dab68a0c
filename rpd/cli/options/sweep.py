"""Options of `rpd sweep`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from rpd.config.launch import LaunchConfig


class SweepOptions(LaunchConfig):
    """Train every (task, robot, seed) of a file, or resume interrupted ones; prints one table."""

    file: tyro.conf.Positional[Path]
    """YAML with out, tasks, robots, seeds, base or init, and settings, e.g. configs/experiments/compass/tabletop.yaml."""
    jobs: int | None = Field(None, ge=1)
    """Parallel runs; default: one per GPU, or per core without a GPU; on a cluster, as many as it has room for."""
    results: str | None = None
    """Also copy each complete run to RESULTS/RUN, e.g. s3://bucket/results; see docs/clusters.md."""
    out: Path | None = None
    """Folder of the runs, overrides the file's."""
