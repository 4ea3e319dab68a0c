"""Figures and tables of runs for a paper, with the seeds of each method pooled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpd.core.files import write_text
from rpd.envs.errors import ConfigError
from rpd.reporting import figure, generalist_report, pooled
from rpd.reporting.charts import Chart
from rpd.reporting.run_charts import curves_of, success_charts
from rpd.runs.paths import is_generalist_run
from rpd.runs.reader import read_run, runs_in


def figure_of(runs: Sequence[Path]) -> list[Chart]:
    """Return the learning curves of runs: one chart per task; of generalists, success and divergence after each stage.

    Args:
        runs: run folders, or folders of them, see `rpd.runs.reader.runs_in`.

    Raises:
        ConfigError: a folder is not a run, or no run has been evaluated yet.
    """
    paths = runs_in(runs)
    if of_several := [path for path in paths if is_generalist_run(path)]:
        charts = generalist_report.learning_charts(of_several)
        if not charts:
            raise ConfigError(f"no learning curve to draw: {', '.join(map(str, of_several))}: no evaluation yet")
        return charts
    return success_charts(curves_of([read_run(path) for path in paths]))


def table_of(runs: Sequence[Path]) -> str:
    """Return the final results of runs as CSV: a row per method and task; with a generalist, per robot, task and policy.

    Args:
        runs: run folders, or folders of them.

    Raises:
        ConfigError: a folder is not a run, or no run is complete.
    """
    paths = runs_in(runs)
    if any(map(is_generalist_run, paths)):
        return pooled.table_text(generalist_report.rows_of(paths))
    return pooled.csv_text([read_run(path).summary for path in paths])


def save_figure(charts: Sequence[Chart], path: Path) -> Path:
    """Write charts to a file, see `rpd.reporting.figure.save`; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.save(charts, path)
    return path


def save_table(text: str, path: Path) -> Path:
    """Write a table; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
