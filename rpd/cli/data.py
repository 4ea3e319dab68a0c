"""`rpd data`: show a folder of demonstrations, or export it for LeRobot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.table import Table

from rpd.cli.options.data import DataOptions
from rpd.core.statistics import format_rate
from rpd.datasets.lerobot.export import export
from rpd.datasets.reader import Demos, open_demos
from rpd.datasets.statistics import action_statistics
from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec, Viewpoint
from rpd.reporting.tables import show, table

SAMPLE = 4
"""Number of instructions shown per task."""


def main(options: DataOptions) -> int:
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
    files = [path, path.with_suffix(".json")] if path.is_file() else path.rglob("*")
    size = sum(p.stat().st_size for p in files if p.is_file()) / 1e6
    print(f"{path}: {len(demos):,} episodes, {demos.num_steps:,} steps, {size:,.1f} MB")
    show(_tasks(demos))
    print(_instructions(demos))
    parts = table("Kept of each step", "key", "shape", "type")
    for key in demos.keys:
        rows = demos.read(0, key, [0])
        parts.add_row(key, " x ".join(map(str, rows.shape[1:])), str(rows.dtype))
    show(parts)
    if views := {key: str(view) for task in demos.tasks if task in demos.specs for key, view in _views(demos, task)}:
        listed = table("Cameras", "key", "viewpoint")
        for row in views.items():
            listed.add_row(*row)
        show(listed)
    spaces: dict[ActionSpec | None, list[str]] = {}
    for task in demos.tasks:
        spaces.setdefault(demos.specs[task].action if task in demos.specs else None, []).append(task)
    for space, tasks in spaces.items():
        show(_actions(demos.select(tasks), space, ", ".join(tasks) if len(spaces) > 1 else ""))


def _views(demos: Demos, task: str) -> Iterable[tuple[str, Viewpoint]]:
    """Cameras of a task by key; with the task, where there are several."""
    return ((f"{task} {key}" if len(demos.tasks) > 1 else key, v) for key, v in demos.specs[task].viewpoints.items())


def _tasks(demos: Demos) -> Table:
    listed = table("Tasks", "task", "episodes", "steps, min–mean–max", "solved")
    for task in demos.tasks:
        episodes = [e for e in demos.episodes if e.task == task]
        known, lengths = [e.success for e in episodes if e.success is not None], [e.length for e in episodes]
        steps = f"{min(lengths)}–{np.mean(lengths):.1f}–{max(lengths)}"
        listed.add_row(task or "-", f"{len(episodes):,}", steps, format_rate(sum(known), len(known)) if known else "-")
    return listed


def _instructions(demos: Demos) -> str:
    """Some instructions of each task, spread over their alphabetical order."""
    lines = []
    for task in demos.tasks:
        texts = sorted({e.instruction for e in demos.episodes if e.task == task})
        some = texts[:: -(-len(texts) // SAMPLE)]
        lines += [f"{task}: {len(texts):,} instructions", *(f"  {text}" for text in some)]
    return "\n".join(lines)


def _actions(demos: Demos, space: ActionSpec | None, tasks: str) -> Table:
    """Ranges of the labels, and their meaning if known."""
    columns = ("name", "+1 means", "min", "1 %", "mean", "99 %", "max")
    listed = table(f"Labels {tasks}".strip(), *columns)
    labels = np.concatenate([demos.read(i, "label") for i in range(len(demos))])
    found = action_statistics(labels, (False,) * labels.shape[1])
    for i in range(labels.shape[1]):
        name, meaning = (space.names[i], f"{space.scale[i]:g} {space.units[i]}") if space else (str(i), "-")
        listed.add_row(name, meaning, *(f"{found[key][i]:+.3f}" for key in ("min", "q01", "mean", "q99", "max")))
    return listed
