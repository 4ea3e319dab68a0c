"""Results as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rpd.page import count, duration, paired_text, rate_text
from rpd.runs import MODES


def result_table(results: Sequence[dict[str, Any]], title: str = "") -> Table:
    """One row per teacher and per student of the given result.json objects."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name, justify in (
        ("policy", "left"), ("success", "left"), ("return", "right"), ("steps", "right"),
        ("teacher queries", "right"), ("wall time", "right"), ("student - teacher", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for result in results:
        teacher = result.get("teacher_eval")
        if teacher:
            table.add_row(f"teacher {result['teacher']}", rate_text(teacher), f"{teacher['mean_return']:.2f}", "", "", "", "")
        student, paired = result["student"], result.get("paired")
        table.add_row(
            f"{MODES[result['mode']]} student",
            rate_text(student),
            f"{student['mean_return']:.2f}",
            count(result["steps"]),
            count(result["teacher_queries"]),
            duration(result["wall_s"]),
            paired_text(paired) if paired else "",
        )
    return table
