"""Options of `rpd report`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict, Field, field_validator


class ReportOptions(BaseModel):
    """Write one self-contained HTML file, and, for a paper, a figure and a table with the seeds of each method pooled."""

    model_config = ConfigDict(extra="forbid")

    runs: tyro.conf.Positional[list[Path]] = Field(min_length=1)
    """Run folders; several are drawn in the same charts."""
    out: Path | None = None
    """File to write; default: report.html in the run, or in the folder of several runs (numbered if it exists for others)."""
    figure: Path | None = None
    """Learning curves, mean over seeds with a band from the lowest to the highest: a file that ends in .pdf, .svg or .png."""
    csv: Path | None = None
    """Table of the methods, seeds pooled: success with its interval, mean and interquartile mean over seeds, and more."""

    @field_validator("figure")
    @classmethod
    def _of_known_format(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in (".pdf", ".svg", ".png"):
            raise ValueError(f"{value} has to end in .pdf, .svg or .png")
        return value

    @field_validator("csv")
    @classmethod
    def _is_csv(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix != ".csv":
            raise ValueError(f"{value} has to end in .csv")
        return value
