"""`rpd eval`: one policy measured, or two compared on the same episodes, with videos and a report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rpd.cli.options.eval import EvalOptions
from rpd.config.evaluation import EvalConfig
from rpd.envs.errors import ConfigError
from rpd.evaluation.evaluate import compare
from rpd.evaluation.measure import Measurement, measure, policies_of, result_folders
from rpd.evaluation.shards import check_options, measure_shards
from rpd.evaluation.suite_evaluation import SuiteEvaluation, measure_suite
from rpd.launch import choose
from rpd.reporting.tables import show
from rpd.reporting.text import rate_text
from rpd.runs.result_store import ResultStore, open_store


def main(options: EvalOptions) -> int:
    """Evaluate and print; returns the exit code."""
    torch.set_num_threads(1)
    what, store = options.evaluation(), open_store(options.results)
    if options.shards is not None:
        return _finish_suite(_measure_shards(what, options.shards, options), store)
    if given := options.launching():
        raise ConfigError(f"{given[0]}: add --suite and --shards, the number of processes")
    if what.suite is not None:
        return _finish_suite(measure_suite(what), store)
    if what.shard is not None:
        raise ConfigError(f"--shard {what.shard} is a part of a suite: add --suite, e.g. --suite libero_spatial")
    measured = measure(what, result_folders(what))
    _show(measured)
    if len(measured.results) == 2:
        first, second = policies_of(what)
        print(f"{second} - {first}: {compare(measured.results[1], measured.results[0])}")
    _copy(store, [folder for folder in measured.folders if folder is not None])
    return 0


def _finish_suite(done: SuiteEvaluation, store: ResultStore | None) -> int:
    """Show and copy the results of a suite; returns the exit code."""
    _show_suite(done)
    if done.summary["n"] == done.expected:
        _copy(store, [done.folder])
    return 0


def _copy(store: ResultStore | None, folders: Sequence[Path]) -> None:
    """Copy result folders: ``RUN/eval/WHEN``, ``OUT``, or of two policies ``OUT/1-NAME`` and ``OUT/2-NAME``."""
    if store is None:
        return
    for folder in folders:
        parts = folder.resolve().parts
        print(store.copied(folder, "/".join(parts[-3:] if parts[-2] == "eval" else parts[-len(folders) :])), flush=True)


def _measure_shards(what: EvalConfig, shards: int, options: EvalOptions) -> SuiteEvaluation:
    check_options(what, shards)
    with contextlib.closing(choose.make(options, torch.cuda.device_count())) as launcher:
        return measure_shards(what, shards, launcher, options, options.jobs)


def _show(measured: Measurement) -> None:
    spec = measured.spec
    table = Table(title=f"{spec.task} · {spec.embodiment.name}", title_justify="left", header_style="bold")
    table.add_column("policy", overflow="fold")
    more = ("travel time", "weighted") if spec.course else ("at end",)  # success ends a course
    arm = any(r.violations is not None for r in measured.results)
    for column in ("success (95 %)", "return", "length", *more, *(("violations", "limited") if arm else ())):
        table.add_column(column, no_wrap=True)
    for r in measured.results:
        at_end = [str(sum(e.success_at_end for e in r.episodes))]
        times = ["–" if t is None else f"{t:.1f} s" for t in (r.travel_time, r.weighted_travel_time)]
        numbers = [f"{r.mean_return:.2f}", f"{r.mean_length:.1f}", *(times if spec.course else at_end)]
        if arm:
            numbers += ["–" if r.violations is None else str(r.violations), "–" if r.limited is None else f"{r.limited:.0%}"]
        table.add_row(r.policy, rate_text(r.to_dict()), *numbers)
    console = Console()
    show(table, console)
    for folder in measured.folders:
        console.print(f"results: {folder}", highlight=False, markup=False, soft_wrap=True)


def _show_suite(done: SuiteEvaluation) -> None:
    """Print a summary per task and in total."""
    summary = done.summary
    title = f"{summary['task']} · {summary['policy']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("success (95 %)", no_wrap=True)
    table.add_column("length", no_wrap=True)
    table.add_column("instruction", overflow="fold")
    for row in summary["tasks"]:
        table.add_row(row["task"], rate_text(row), f"{row['mean_length']:.0f}", row["instruction"])
    table.add_section()
    table.add_row("all", rate_text(summary), f"{summary['mean_length']:.0f}", f"mean of the tasks {summary['mean_rate']:.1%}")
    console = Console()
    show(table, console)
    if summary["n"] < done.expected:
        rest = f"{summary['n']} of {done.expected} episodes are here; the other shards, or the same command, add the rest"
        console.print(rest, highlight=False, soft_wrap=True)
    console.print(f"results: {done.folder}", highlight=False, markup=False, soft_wrap=True)
