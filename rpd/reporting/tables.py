"""Terminal tables that are never truncated; printed by `show`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from rpd.reporting.text import count, duration, kind, paired_text, rate_text

FOLDED = (16, 12, 8)
"""Minimum lengths below which a word is not broken: the first with which a table fits is used."""


def show(table: Table, console: Console | None = None) -> None:
    """Print a table without truncation: cells wrap, and unwrappable ones make lines longer than the terminal."""
    console = console or Console()
    sizes = [_sizes(column) for column in table.columns]
    for limit in FOLDED:
        least = [line if c.no_wrap else min(word, limit) for c, (line, word) in zip(table.columns, sizes, strict=True)]
        frame = _set_widths(table, least, console)
        if frame + sum(least) <= console.width:
            break
    room = max(0, console.width - frame - sum(least))
    wanted = [line - width for (line, _), width in zip(sizes, least, strict=True)]
    share = min(1.0, room / max(sum(wanted), 1))
    _set_widths(table, [width + int(share * more) for width, more in zip(least, wanted, strict=True)], console)
    console.width = max(console.width, frame + sum(least))
    for name in ("title", "caption"):  # file and policy names are not markup
        text = getattr(table, name)
        setattr(table, name, Text(text, style=f"table.{name}") if isinstance(text, str) else text)
    console.print(table, markup=False)


def _sizes(column: Column) -> tuple[int, int]:
    """Lengths of the longest line of a column, and of its longest word, in characters."""
    texts = [str(cell) for cell in (column.header, *column.cells)]
    lines = [line for text in texts for line in text.splitlines()]
    words = [word for line in lines for word in line.split()]
    return max(map(cell_len, lines), default=0), max(map(cell_len, words), default=0)


def _set_widths(table: Table, widths: Sequence[int], console: Console) -> int:
    """Set column widths; returns the width of lines and padding."""
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.overflow = width, "fold"
    wide = console.options.update(max_width=10_000)
    return Measurement.get(console, wide, table).minimum - sum(widths)


def table(title: str, *columns: str, whole: Collection[str] = (), numbers: Collection[str] = ()) -> Table:
    """Return an empty table; `whole` and `numbers` columns are not wrapped, and `numbers` are right-aligned."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for name in columns:
        made.add_column(name, no_wrap=name in whole or name in numbers, justify="right" if name in numbers else "left")
    return made


def compact() -> Table:
    """A table with narrow columns: seven of them fit."""
    return Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)


def result_table(result: dict[str, Any]) -> Table:
    """Teacher, base and student of one result.json, with their differences below."""
    teacher, base, student = result["teacher_eval"], result.get("base_eval"), result["student"]
    differences = [
        f"student - {name}: {100 * paired['diff']:+.0f} points {paired_text(paired)}, paired by seed"
        for name, paired in (("teacher", result["paired"]), ("base", result.get("base_paired")))
        if paired
    ]
    table = Table(
        title=result["task"] + (f" · teacher {result['teacher']}" if teacher else ""),
        title_justify="left",
        caption="\n".join(differences) or None,
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("success (95 %)", no_wrap=True)
    for name in ("return", "steps", "queries", "wall time"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, other in (("teacher", teacher), ("base", base)):
        if other:
            table.add_row(name, rate_text(other), f"{other['mean_return']:.2f}", "", "", "")
    table.add_row(
        f"{kind(result)} student",
        rate_text(student),
        f"{student['mean_return']:.2f}",
        count(result["steps"]),
        count(result["teacher_queries"]),
        duration(result["wall_s"]),
    )
    return table
