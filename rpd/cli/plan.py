"""`rpd doctor --plan`: print the memory that a configuration needs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rpd.config.schema import RunConfig
from rpd.core import memory
from rpd.reporting.tables import show
from rpd.training.memory_estimate import CPU, Plan, make


def main(config: RunConfig) -> int:
    """Print the memory plan of a run; returns the exit code.

    Raises:
        ConfigError: the run does not fit into memory, or the configuration is invalid.
    """
    console, plan = Console(), make(config)
    render(plan, console)
    memory.check(plan.items, plan.title, plan.remedy, plan.held)
    return 0


def render(plan: Plan, console: Console) -> None:
    """Print a plan as a table, with totals per device."""
    table = Table(title=plan.title, title_justify="left", header_style="bold")
    for column, justify in (("part", "left"), ("what", "left"), ("where", "left"), ("memory", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for item in plan.items:
        how = "" if item.certain else "about"
        table.add_row(item.part, item.what, str(item.device), memory.human(item.bytes), how)
    for device in dict.fromkeys(item.device for item in plan.items):
        total, free = sum(item.bytes for item in plan.items if item.device == device), memory.available(device)
        there = "" if free is None else f"of {memory.human(free + (plan.held if device == CPU else 0))}"
        table.add_row("[bold]total[/]", "", str(device), memory.human(total), there, end_section=True)
    show(table, console)
