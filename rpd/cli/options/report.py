"""Options of `rpd report`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict, Field


class ReportOptions(BaseModel):
    """Write one self-contained HTML file."""

    model_config = ConfigDict(extra="forbid")

    runs: tyro.conf.Positional[list[Path]] = Field(min_length=1)
    """Run folders; several are drawn in the same charts."""
    out: Path | None = None
    """File to write; default: report.html in the run, or in the folder of several runs (numbered if it exists for others)."""
