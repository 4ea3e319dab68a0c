"""`rpd teacher finetune`: start or resume the fine-tuning of a VLA."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from rpd.cli.options.finetune import FinetuneOptions
from rpd.config.vla_finetuning import CloneConfig
from rpd.envs.errors import ConfigError
from rpd.reporting.html import rate_text
from rpd.reporting.report_file import REPORT, is_whole
from rpd.reporting.tables import show
from rpd.reporting.vla_report import write_report
from rpd.runs import lifecycle
from rpd.runs.reader import read_json
from rpd.training.vla_finetuning import MODEL, VLATrainer

COMMAND = "rpd teacher finetune"


def main(options: FinetuneOptions) -> int:
    """Start or resume; returns the exit code."""
    if options.resume is not None:
        with lifecycle.lock_run_dir(options.resume):
            other = [k for k, v in options if k != "resume" and v != getattr(FinetuneOptions(), k)]
            if other:
                what = f"leave out {', '.join(other)}, or edit {options.resume / 'config.yaml'} before"
                raise ConfigError(f"--resume continues with the run's own configuration: {what}")
            return _resume(options.resume)
    if not options.data:
        raise ConfigError("no demonstrations: name a folder that `rpd data collect` wrote, e.g. rpd teacher finetune demos/x")
    config = CloneConfig(**options.model_dump(include=set(CloneConfig.model_fields)))
    stem = f"{options.family}-{options.init.rstrip('/').split('/')[-1]}"
    with lifecycle.create_run_dir(options.runs_dir, options.name, stem, COMMAND) as run_dir:
        return _train(VLATrainer(config, run_dir))


def _resume(run_dir: Path) -> int:
    config = lifecycle.load_run_config(run_dir, CloneConfig, COMMAND)
    saved = lifecycle.load_latest_checkpoint(run_dir, config)
    if lifecycle.is_complete(run_dir, config.total_steps):
        print(f"{run_dir} is complete: {config.total_steps:,} steps")
        return 0 if is_whole(run_dir / REPORT) else _show(run_dir, config)
    if saved is not None:
        print(f"resuming {run_dir} at {saved.step:,} steps", flush=True)
    return _train(VLATrainer(config, run_dir, saved))


def _train(cloner: VLATrainer) -> int:
    lifecycle.run_to_completion(cloner, COMMAND)
    return _show(cloner.run_dir, cloner.config)


def _show(run_dir: Path, config: CloneConfig) -> int:
    """Print the result of a complete run and write its report; returns the exit code."""
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
