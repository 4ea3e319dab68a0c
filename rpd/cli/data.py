"""`rpd demos`: what is in a folder of demonstrations, and the same for LeRobot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from envs.errors import ConfigError
from envs.specs import ActionSpec
from rpd.demos.lerobot.export import export
from rpd.demos.reader import Demos, open_demos
from rpd.demos.statistics import action_statistics
from rpd.stats import format_rate

SAMPLE = 4
"""Instructions per task that are shown."""


class DemosOptions(BaseModel):
    """Show demonstrations, or export them."""

    model_config = ConfigDict(extra="forbid")

    what: tyro.conf.Positional[Literal["show", "export"]]
    """show: tasks, episodes, cameras, actions, instructions, size; export: write them in another format."""
    path: tyro.conf.Positional[Path]
    """Folder that `rpd collect` wrote, LeRobotDataset v3, a trajectory file of ManiSkill or a folder of them, or a record of
    `rpd deploy`."""
    format: Literal["lerobot"] = "lerobot"
    """export: LeRobotDataset v3."""
    out: Path | None = None
    """export: folder to write."""
    tasks: tuple[str, ...] | None = None
    """These tasks alone; default: all."""


def main(options: DemosOptions) -> int:
    """Show or export; returns the exit code."""
    if (options.what == "export") != (options.out is not None):
        says = "add --out, the folder to write" if options.out is None else "leave out --out: show writes nothing"
        raise ConfigError(says)
    demos = open_demos(options.path).select(options.tasks)
    if options.out is None:
        _show(demos, options.path)
    else:
        export(demos, options.out)
        print(f"{len(demos):,} episodes, {demos.num_steps:,} steps: {options.out}")
    return 0


def _show(demos: Demos, path: Path) -> None:
    console = Console()
    files = [path, path.with_suffix(".json")] if path.is_file() else path.rglob("*")
    size = sum(p.stat().st_size for p in files if p.is_file()) / 1e6
    print(f"{path}: {len(demos):,} episodes, {demos.num_steps:,} steps, {size:,.1f} MB")
    console.print(_tasks(demos))
    print(_instructions(demos))
    parts = _table("Kept of each step", "key", "shape", "type")
    for key in demos.keys:
        rows = demos.read(0, key, [0])
        parts.add_row(key, " x ".join(map(str, rows.shape[1:])), str(rows.dtype))
    console.print(parts)
    spaces: dict[ActionSpec | None, list[str]] = {}
    for task in demos.tasks:
        spaces.setdefault(demos.specs[task].action if task in demos.specs else None, []).append(task)
    for space, tasks in spaces.items():
        console.print(_actions(demos.select(tasks), space, ", ".join(tasks) if len(spaces) > 1 else ""))


def _tasks(demos: Demos) -> Table:
    table = _table("Tasks", "task", "episodes", "steps, min–mean–max", "solved")
    for task in demos.tasks:
        episodes = [e for e in demos.episodes if e.task == task]
        known, lengths = [e.success for e in episodes if e.success is not None], [e.length for e in episodes]
        steps = f"{min(lengths)}–{np.mean(lengths):.1f}–{max(lengths)}"
        table.add_row(task or "-", f"{len(episodes):,}", steps, format_rate(sum(known), len(known)) if known else "-")
    return table


def _instructions(demos: Demos) -> str:
    """A few of each task's instructions, spread over their alphabet."""
    lines = []
    for task in demos.tasks:
        texts = sorted({e.instruction for e in demos.episodes if e.task == task})
        some = texts[:: -(-len(texts) // SAMPLE)]
        lines += [f"{task}: {len(texts):,} instructions", *(f"  {text}" for text in some)]
    return "\n".join(lines)


def _actions(demos: Demos, space: ActionSpec | None, tasks: str) -> Table:
    """Ranges of the labels, and what they mean where that is known."""
    columns = ("name", "+1 means", "min", "1 %", "mean", "99 %", "max")
    table = _table(f"Labels {tasks}".strip(), *columns)
    labels = np.concatenate([demos.read(i, "label") for i in range(len(demos))])
    found = action_statistics(labels, (False,) * labels.shape[1])
    for i in range(labels.shape[1]):
        name, meaning = (space.names[i], f"{space.scale[i]:g} {space.units[i]}") if space else (str(i), "-")
        table.add_row(name, meaning, *(f"{found[key][i]:+.3f}" for key in ("min", "q01", "mean", "q99", "max")))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
