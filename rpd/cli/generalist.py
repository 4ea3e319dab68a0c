"""`rpd generalist`: start or resume the distillation of specialists into a generalist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from rpd.cli import step_runs
from rpd.cli.options.generalist import GeneralistOptions
from rpd.config.generalist import DistillRun
from rpd.core.distributed import World
from rpd.core.joining import rank_device
from rpd.reporting.run_report import write
from rpd.reporting.tables import compact, show
from rpd.reporting.text import paired_text, rate_text
from rpd.runs import checkpoint
from rpd.runs.reader import read_json, runs_in
from rpd.training import specialists
from rpd.training.generalist import GeneralistTrainer
from rpd.training.rank_setup import simulator_threads


def main(options: GeneralistOptions) -> int:
    """Start or resume; returns the exit code."""
    if options.resume is not None:
        return step_runs.resume(KIND, options, options.resume)
    config = options.config().model_copy(update={"runs": tuple(runs_in(options.runs))})
    return step_runs.start(KIND, options, config, f"generalist-seed{options.seed}")


@contextmanager
def _trainer(
    config: DistillRun, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World
) -> Iterator[GeneralistTrainer]:
    device = torch.device(rank_device(config.device))
    count = min(config.num_envs, config.episodes)
    threads = simulator_threads(config.num_threads)
    with ExitStack() as stack:
        with world.together():
            members = stack.enter_context(specialists.opened(config.runs, count, device, threads))
            held = stack.enter_context(specialists.held_out(members, config.held_out, device, threads))
            trainer = GeneralistTrainer(config, run_dir, members, held, device, saved, world)
        yield trainer


def _show(run_dir: Path, config: DistillRun) -> None:
    """Print the result of a complete run and write its report."""
    del config
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


KIND = step_runs.Kind("rpd generalist", DistillRun, _trainer, _show)
