"""`rpd train` and `rpd residual`: train or resume a run, print its result and write its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from rpd.config.schema import RunConfig
from rpd.core.ranks import rank
from rpd.reporting.report_file import REPORT, is_whole
from rpd.reporting.run_report import write
from rpd.reporting.tables import result_table, show
from rpd.runs.reader import valid_result
from rpd.training import run


def start(config: RunConfig, runs_dir: Path, name: str | None) -> int:
    """Train in a new folder; returns the exit code."""
    return _show(run.train(config, runs_dir=runs_dir, name=name).path)


def resume(run_dir: Path, options: dict[str, Any] | None = None) -> int:
    """Resume from the latest valid checkpoint; returns the exit code.

    Args:
        run_dir: the run's folder.
        options: options to change, see `rpd.training.run.resume`.
    """
    before = valid_result(run_dir)
    run.resume(run_dir, **(options or {}))
    unchanged = before and before == valid_result(run_dir)
    return 0 if unchanged and is_whole(run_dir / REPORT) else _show(run_dir)


def _show(run_dir: Path) -> int:
    """Print the result of a complete run and write its report, at rank 0; returns the exit code."""
    if rank() > 0:
        return 0
    console = Console()
    show(result_table(valid_result(run_dir)), console)
    console.print(f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False, markup=False, soft_wrap=True)
    return 0
