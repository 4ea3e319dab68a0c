"""`rpd list`: what there is to train on, learn from and start with."""

from __future__ import annotations

from collections.abc import Container
from importlib import resources

from rich.console import Console
from rich.table import Table

from envs.registry import SIMULATORS, list_tasks
from rpd.distill.divergences import DIVERGENCES
from rpd.distill.gates import GATES
from rpd.settings import COMMON
from teachers.registry import list_teachers


def main() -> int:
    """Print tasks, teachers, distillation terms and shipped settings; returns the exit code."""
    console = Console()
    tasks = _table("Tasks", "task", "robots", "cameras", "instruction")
    known = {t.name: t for t in list_tasks()}
    for t in known.values():
        tasks.add_row(t.name, " ".join(t.robots), " ".join(t.cameras), t.instruction)
    teachers = _table("Teachers", "name", "what it is")
    for pattern, description in list_teachers():
        teachers.add_row(pattern, description)
    terms = _table("Distillation", "option", "values")
    terms.add_row("--distill.divergence", " ".join(DIVERGENCES))
    terms.add_row("--distill.gate", " ".join(GATES))
    files = _table("Settings", "file", "used by")
    for simulator in sorted(d.name for d in resources.files("configs").iterdir() if d.is_dir()):
        for file in sorted(f.name for f in resources.files("configs").joinpath(simulator).iterdir()):
            if file.endswith(".yaml"):
                files.add_row(f"configs/{simulator}/{file}", _used_by(simulator, file, known))
    for table in (tasks, teachers, terms, files):
        console.print(table)
    return 0


def _used_by(simulator: str, file: str, tasks: Container[str]) -> str:
    """The command that reads a settings file that ships."""
    path, task = f"configs/{simulator}/{file}", f"{simulator}/{file.removesuffix('.yaml')}"
    if simulator not in SIMULATORS:
        return f"rpd sweep {path}"
    if file == COMMON:
        return f"rpd train {simulator}/..."
    return f"rpd train {task}" if task in tasks else f"rpd train {simulator}/... --config {path}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)  # what is to be typed stays in one piece
    return table
