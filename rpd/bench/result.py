"""Result of a benchmark: a table for people, and JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from rpd.core.files import write_json, write_text

SCHEMA = 2
FILE = "bench.json"
Cell = str | float | None


class Column(NamedTuple):
    """A column of a table."""

    name: str
    format: str = ""
    """Format of its numbers."""


@dataclass
class Benchmark:
    """Table of measurements."""

    title: str
    columns: tuple[Column, ...]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks, one sentence each."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further results for programs."""
    files: dict[str, str] = field(default_factory=dict)
    """Figures and pages, by file name."""

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text; missing values are empty."""
        return [[_text(cell, column.format) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]

    def table(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, title_justify="left", header_style="bold")
        for i, column in enumerate(self.columns):
            table.add_column(column.name, justify="left" if i == 0 else "right")
        for row in self.cells:
            table.add_row(*row)
        return table

    def write(self, folder: Path, command: str, info: dict[str, Any]) -> Path:
        """Write bench.json with the command, `rpd.runs.provenance.environment_info`, and `files`; returns its path."""
        for name, text in self.files.items():
            write_text(folder / name, text)
        names = [column.name for column in self.columns]
        head = {"schema_version": SCHEMA, "command": command, "title": self.title, "columns": names}
        found = {"rows": self.rows, "notes": self.notes, **self.details}
        write_json(folder / FILE, {**head, **found, **info})
        return folder / FILE


def spread(values: Sequence[float], scale: float = 1.0) -> tuple[float, float, float]:
    """Minimum, median and maximum, times `scale`."""
    return scale * min(values), scale * statistics.median(values), scale * max(values)


def spread_columns(unit: str, format: str) -> tuple[Column, Column, Column]:
    """Columns for the values of `spread`."""
    return Column(f"min{unit}", format), Column(f"median{unit}", format), Column(f"max{unit}", format)


def _text(cell: Cell, format: str) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else f"{cell:{format}}"
