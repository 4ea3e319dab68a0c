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
from rpd.runs.result_store import ResultStore, open_store
from rpd.training import run


def start(config: RunConfig, runs_dir: Path, name: str | None, results: str | None = None) -> int:
    """Train in a new folder; returns the exit code.

    Args:
        config: the run's configuration.
        runs_dir: parent of the run's folder.
        name: name of the run's folder; None: made from the configuration.
        results: address for a copy of the complete run, see `rpd.runs.result_store`; None: no copy.
    """
    store = open_store(results)
    return _finish(run.train(config, runs_dir=runs_dir, name=name).path, store)


def resume(run_dir: Path, options: dict[str, Any] | None = None, results: str | None = None) -> int:
    """Resume from the latest valid checkpoint; returns the exit code.

    Args:
        run_dir: the run's folder.
        options: options to change, see `rpd.training.run.resume`.
        results: see `start`.
    """
    store, before = open_store(results), valid_result(run_dir)
    run.resume(run_dir, **(options or {}))
    unchanged = before and before == valid_result(run_dir)
    return _finish(run_dir, store, shown=bool(unchanged) and is_whole(run_dir / REPORT))


def _finish(run_dir: Path, store: ResultStore | None, shown: bool = False) -> int:
    """Show a complete run and copy it, at rank 0; returns the exit code."""
    if rank() == 0:
        if not shown:
            _show(run_dir)
        if store is not None:
            print(store.copied(run_dir, run_dir.resolve().name), flush=True)
    return 0


def _show(run_dir: Path) -> None:
    """Print the result of a complete run and write its report."""
    console = Console()
    show(result_table(valid_result(run_dir)), console)
    console.print(f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False, markup=False, soft_wrap=True)
