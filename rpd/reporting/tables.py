"""Results as a table for a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from rpd.page import count, duration, paired_text, rate_text
from rpd.runs import kind


def compact() -> Table:
    """A table whose columns leave room for each other: seven of them fit."""
    return Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)


def result_table(result: dict[str, Any]) -> Table:
    """Teacher, base and student of one result.json, and their differences below."""
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
