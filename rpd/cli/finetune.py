"""`rpd teacher finetune`: start or resume the fine-tuning of a VLA."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rpd.cli.options.finetune import FinetuneOptions
from rpd.config.resume import check_alone
from rpd.config.vla_finetuning import CloneConfig
from rpd.core.distributed import World
from rpd.core.joining import joined, rank_device
from rpd.core.ranks import rank
from rpd.envs.errors import ConfigError
from rpd.reporting.html import rate_text
from rpd.reporting.report_file import REPORT, is_whole
from rpd.reporting.tables import show
from rpd.reporting.vla_report import write_report
from rpd.runs import checkpoint, lifecycle
from rpd.runs.reader import read_json
from rpd.runs.same_program import same_run
from rpd.training.vla_finetuning import MODEL, VLATrainer

LOG = logging.getLogger(__name__)
COMMAND = "rpd teacher finetune"


def main(options: FinetuneOptions) -> int:
    """Start or resume; returns the exit code."""
    if options.resume is not None:
        lifecycle.check_run_dir(options.resume)
        check_alone(options, options.resume)
        return _resume(options.resume)
    if not options.data:
        raise ConfigError("no demonstrations: name a folder that `rpd data collect` wrote, e.g. rpd teacher finetune demos/x")
    config = CloneConfig(**options.model_dump(include=set(CloneConfig.model_fields)))
    stem = f"{options.family}-{options.init.rstrip('/').split('/')[-1]}"
    with (
        joined(rank_device(config.device)) as world,
        same_run(world, config, lambda: lifecycle.create_run_dir(options.runs_dir, options.name, stem, COMMAND)) as run_dir,
    ):
        return _train(config, run_dir, None, world)


def _resume(run_dir: Path) -> int:
    config = lifecycle.load_run_config(run_dir, CloneConfig, COMMAND)
    with (
        joined(rank_device(config.device)) as world,
        same_run(world, config, lambda: lifecycle.lock_run_dir(run_dir)),
    ):
        saved = lifecycle.load_latest_checkpoint(run_dir, config, world)
        if lifecycle.is_complete(run_dir, config.total_steps):
            LOG.info(f"{run_dir} is complete: {config.total_steps:,} steps")
            return 0 if is_whole(run_dir / REPORT) else _show(run_dir, config)
        if saved is not None:
            LOG.info(f"resuming {run_dir} at {saved.step:,} steps")
        return _train(config, run_dir, saved, world)


def _train(config: CloneConfig, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World) -> int:
    with world.together():
        trainer = VLATrainer(config, run_dir, saved, world)
    lifecycle.run_to_completion(trainer, COMMAND)
    return _show(run_dir, trainer.config)


def _show(run_dir: Path, config: CloneConfig) -> int:
    """Print the result of a complete run and write its report, at rank 0; returns the exit code."""
    if rank() > 0:
        return 0
    result = read_json(run_dir / "result.json")
    table = Table(header_style="bold")
    for name in ("task", "success (95 %)", "length"):
        table.add_column(name, no_wrap=True)
    for played in result["played"]:
        table.add_row(played["task"], rate_text(played), f"{played['mean_length']:.1f}")
    console = Console()
    if result["played"]:
        show(table, console)
    folder = run_dir / MODEL
    report = write_report(run_dir)
    console.print(
        f"model: {folder}\nas a teacher: {config.family}:{folder}\nreport: {report}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0
