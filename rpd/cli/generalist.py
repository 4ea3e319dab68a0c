"""`rpd generalist`: start or resume the distillation of specialists into a generalist."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from rpd.cli.options.generalist import GeneralistOptions
from rpd.config.generalist import DistillRun
from rpd.config.resume import check_alone
from rpd.core.distributed import World
from rpd.core.joining import joined, rank_device
from rpd.core.ranks import rank
from rpd.reporting.html import paired_text, rate_text
from rpd.reporting.report_file import REPORT, is_whole
from rpd.reporting.run_report import write
from rpd.reporting.tables import compact, show
from rpd.runs import checkpoint, lifecycle
from rpd.runs.reader import read_json, runs_in
from rpd.runs.same_program import same_run
from rpd.training import specialists
from rpd.training.generalist import GeneralistTrainer
from rpd.training.rank_setup import simulator_threads

LOG = logging.getLogger(__name__)
COMMAND = "rpd generalist"


def main(options: GeneralistOptions) -> int:
    """Start or resume; returns the exit code."""
    if options.resume is not None:
        check_alone(options, options.resume)
        return _resume(options.resume)
    config = options.config().model_copy(update={"runs": tuple(runs_in(options.runs))})
    stem = f"generalist-seed{options.seed}"
    with (
        joined(rank_device(config.device)) as world,
        same_run(world, config, lambda: lifecycle.create_run_dir(options.runs_dir, options.name, stem, COMMAND)) as run_dir,
    ):
        return _distil(config, run_dir, None, world)


def _resume(run_dir: Path) -> int:
    lifecycle.check_run_dir(run_dir)
    config = lifecycle.load_run_config(run_dir, DistillRun, COMMAND)
    with (
        joined(rank_device(config.device)) as world,
        same_run(world, config, lambda: lifecycle.lock_run_dir(run_dir)),
    ):
        saved = lifecycle.load_latest_checkpoint(run_dir, config, world)
        if lifecycle.is_complete(run_dir, config.total_steps):
            LOG.info(f"{run_dir} is complete: {config.total_steps:,} steps")
            return 0 if is_whole(run_dir / REPORT) else _show(run_dir)
        if saved is not None:
            LOG.info(f"resuming {run_dir} at {saved.step:,} steps")
        return _distil(config, run_dir, saved, world)


def _distil(config: DistillRun, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World) -> int:
    device = torch.device(rank_device(config.device))
    count = min(config.num_envs, config.episodes)
    threads = simulator_threads(config.num_threads)
    with ExitStack() as stack:
        with world.together():
            members = stack.enter_context(specialists.opened(config.runs, count, device, threads))
            held = stack.enter_context(specialists.held_out(members, config.held_out, device, threads))
            trainer = GeneralistTrainer(config, run_dir, members, held, device, saved, world)
        lifecycle.run_to_completion(trainer, COMMAND)
    return _show(run_dir)


def _show(run_dir: Path) -> int:
    """Print the result of a complete run and write its report, at rank 0; returns the exit code."""
    if rank() > 0:
        return 0
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
    show(table, console)
    for note in dict.fromkeys(row["note"] for row in result["held_out"]):
        console.print(note, highlight=False, soft_wrap=True)
    stored = result["data"]
    console.print(
        f"stored: {stored['frames']:,} frames, {stored['bytes_per_frame']:.0f} bytes each\n"
        f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0
