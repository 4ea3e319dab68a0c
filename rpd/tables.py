"""Results as a table for a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from rpd.page import count, duration, paired_text, rate_text
from rpd.runs import MODES


def result_table(result: dict[str, Any]) -> Table:
    """Teacher and student of one result.json, and their difference below."""
    teacher, student, paired = result["teacher_eval"], result["student"], result["paired"]
    difference = (
        f"student - teacher: {100 * paired['diff']:+.0f} points {paired_text(paired)}, paired by seed" if paired else None
    )
    table = Table(
        title=result["task"] + (f" · teacher {result['teacher']}" if teacher else ""),
        title_justify="left",
        caption=difference,
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("success (95 %)", no_wrap=True)
    for name in ("return", "steps", "queries", "wall time"):
        table.add_column(name, justify="right", no_wrap=True)
    if teacher:
        table.add_row("teacher", rate_text(teacher), f"{teacher['mean_return']:.2f}", "", "", "")
    table.add_row(
        f"{MODES[result['mode']]} student",
        rate_text(student),
        f"{student['mean_return']:.2f}",
        count(result["steps"]),
        count(result["teacher_queries"]),
        duration(result["wall_s"]),
    )
    return table
