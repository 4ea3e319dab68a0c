"""`rpd teacher finetune`: start or resume the fine-tuning of a VLA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rpd.cli import step_runs
from rpd.cli.options.finetune import FinetuneOptions
from rpd.config.vla_finetuning import CloneConfig
from rpd.core.distributed import World
from rpd.envs.errors import ConfigError
from rpd.reporting.tables import show
from rpd.reporting.text import rate_text
from rpd.reporting.vla_report import write_report
from rpd.runs import checkpoint
from rpd.runs.reader import read_json
from rpd.training.vla_finetuning import MODEL, VLATrainer


def main(options: FinetuneOptions) -> int:
    """Start or resume; returns the exit code."""
    if options.resume is not None:
        return step_runs.resume(KIND, options, options.resume)
    if not options.data:
        raise ConfigError("no demonstrations: name a folder that `rpd data collect` wrote, e.g. rpd teacher finetune demos/x")
    config = CloneConfig(**options.model_dump(include=set(CloneConfig.model_fields)))
    return step_runs.start(KIND, options, config, f"{options.family}-{options.init.rstrip('/').split('/')[-1]}")


@contextmanager
def _trainer(config: CloneConfig, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World) -> Iterator[VLATrainer]:
    with world.together():
        trainer = VLATrainer(config, run_dir, saved, world)
    yield trainer


def _show(run_dir: Path, config: CloneConfig) -> None:
    """Print the result of a complete run and write its report."""
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


KIND = step_runs.Kind("rpd teacher finetune", CloneConfig, _trainer, _show)
