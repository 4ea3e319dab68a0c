"""`rpd distill`: a distillation from its folder's point of view: started, resumed, interrupted, finished."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console

from envs.errors import ConfigError, unknown_name
from rpd import checkpoint, lifecycle
from rpd.generalist import cells
from rpd.generalist.config import DistillOptions, DistillRun
from rpd.generalist.trainer import GeneralistTrainer
from rpd.page import paired_text, rate_text
from rpd.report import write
from rpd.runs import near, read_json
from rpd.tables import compact
from rpd.trainer import resolve_device

COMMAND = "rpd distill"


def main(options: DistillOptions) -> int:
    """Start or continue; returns the exit code."""
    if options.resume is not None:
        other = [k for k, v in options if k != "resume" and v != getattr(DistillOptions(), k)]
        if other:
            raise ConfigError(f"--resume continues with the run's own configuration: leave out {', '.join(other)}")
        return _resume(options.resume)
    run_dir = options.runs_dir / (options.name or f"generalist-seed{options.seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    lifecycle.claim(run_dir, COMMAND)
    return _distil(options.config(), run_dir, None)


def _resume(run_dir: Path) -> int:
    if not run_dir.exists() and (runs := near(run_dir)):
        raise unknown_name("run", str(run_dir), runs)
    config = lifecycle.configuration(run_dir, DistillRun, COMMAND)
    if (run_dir / "result.json").exists():
        print(f"{run_dir} is complete: {config.total_steps:,} steps")
        return 0
    saved = lifecycle.newest(run_dir)
    if saved is not None:
        print(f"resuming {run_dir} at {saved.step:,} steps", flush=True)
    return _distil(config, run_dir, saved)


def _distil(config: DistillRun, run_dir: Path, saved: checkpoint.Checkpoint | None) -> int:
    device = torch.device(resolve_device(config.device))
    count = min(config.num_envs, config.episodes)
    with (
        cells.opened(config.runs, count, device, config.num_threads) as members,
        cells.held_out(members, config.held_out, device, config.num_threads) as held,
    ):
        trainer = GeneralistTrainer(config, run_dir, members, held, device, saved)
        complete = lifecycle.see_through(trainer, COMMAND)
    if not complete:
        return 130
    console, result = Console(), read_json(run_dir / "result.json")
    table = compact()
    for name in ("task", "robot", "base", "specialist", "generalist (95 %)", "difference"):
        table.add_column(name, no_wrap=True)
    for row in result["cells"]:
        base = f"{row['base']['rate']:.0%}" if row["base"] else "–"
        points = f"{100 * row['paired']['diff']:+.0f} {paired_text(row['paired'])}"
        task = row["task"].rsplit("/", 1)[-1]
        table.add_row(task, row["robot"], base, f"{row['specialist']['rate']:.0%}", rate_text(row["generalist"]), points)
    for row in result["held_out"]:
        base = f"{row['base']['rate']:.0%}" if row["base"] else "–"
        table.add_row(row["task"].rsplit("/", 1)[-1], row["robot"], base, "held out", rate_text(row["generalist"]), "")
    console.print(table)
    for note in dict.fromkeys(row["note"] for row in result["held_out"]):
        console.print(note, highlight=False, soft_wrap=True)
    stored = result["data"]
    console.print(
        f"stored: {stored['frames']:,} frames, {stored['bytes_per_frame']:.0f} bytes each\n"
        f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0
