"""`rpd sweep`: train every (task, robot, seed) of a file, several at a time; resumes, and prints one table."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import torch
from rich.table import Table

from rpd.cli.options.sweep import SweepOptions
from rpd.core.bootstrap import pooled_rate
from rpd.envs.errors import ConfigError, RunFault
from rpd.launch import choose
from rpd.launch.base import Launcher
from rpd.launch.pool import Pool
from rpd.policies.identity import check_same, sources
from rpd.reporting.tables import compact, show
from rpd.reporting.text import rate_text
from rpd.runs.reader import read_json
from rpd.runs.result_store import ResultStore, open_store
from rpd.students.io.locks import LOCK, is_locked, locked
from rpd.students.io.outputs import made
from rpd.training.sweep import Cell, Sweep, _prepare, _short, cells_of, jobs_of, read, train

LOG = logging.getLogger(__name__)


def main(options: SweepOptions) -> int:
    """Train incomplete runs, and print the table; returns the exit code."""
    sweep, store = read(options.file), open_store(options.results)
    sweep = sweep if options.out is None else sweep.model_copy(update={"out": options.out})
    cells = list(cells_of(sweep))
    launcher = choose.make(options, torch.cuda.device_count())
    with contextlib.closing(launcher), made(sweep.out), locked(sweep.out / LOCK, sweep.out):
        return _run(sweep, cells, options, launcher, store)


def _run(sweep: Sweep, cells: list[Cell], options: SweepOptions, launcher: Launcher, store: ResultStore | None) -> int:
    for cell in cells:
        if is_locked(cell.run_dir / LOCK):
            raise ConfigError(f"{cell.run_dir} is still being written, by an earlier sweep or by hand: wait for it, or end it")
        _check_sources(cell)
    todo = [cell for cell in cells if not cell.is_complete]
    pool = Pool(launcher, jobs_of(todo, options.cpus_per_run, options.gpus_per_run), sweep.out, options.jobs)
    _prepare(sweep, cells)
    print(f"{len(cells)} runs in {sweep.out}, {len(cells) - len(todo)} of them complete", flush=True)
    failed = train(todo, pool, lambda cell: _copy_now(cell, store))
    show(table(cells))
    if store is not None:
        for cell in cells:  # with those of earlier sweeps, and those for which the store failed
            if cell.is_complete:
                print(store.copied(cell.run_dir, cell.name), flush=True)
    for outcome in failed:
        print(outcome.failure, flush=True)
    if pool.interrupted:
        print(f"to continue: rpd sweep {options.file}" + (f" --out {options.out}" if options.out else ""), flush=True)
        return 130
    return 1 if failed else 0


def _copy_now(cell: Cell, store: ResultStore | None) -> None:
    """Copy a run that has just ended; a failure is repeated after all runs."""
    if store is not None and cell.is_complete:
        try:
            store.put(cell.run_dir, cell.name)
        except RunFault as error:
            LOG.warning(str(error))


def table(cells: list[Cell]) -> Table:
    """One row per task and robot, pooled over all complete seeds, with intervals over seeds and episodes."""
    shown = compact()
    based = any(cell.base is not None for cell in cells)
    shown.add_column("task", no_wrap=True)
    shown.add_column("robot", no_wrap=True)
    for name in (("base (95 %)", "steps") if based else ()) + ("success (95 %)", "steps", "runs"):
        shown.add_column(name, no_wrap=True, justify="right")
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((_short(cell.task), cell.robot), []).append(cell)
    for (task, robot), members in rows.items():
        results = [result for cell in members if (result := cell.result())]
        columns = _pooled(results[:1], "base_eval") if based else []  # the base is the same for all seeds
        shown.add_row(task, robot, *columns, *_pooled(results, "student"), f"{len(results)}/{len(members)}")
    return shown


def _pooled(results: list[dict[str, Any]], who: str) -> list[str]:
    """Success and mean length (control steps) over several evaluations."""
    found = [result[who] for result in results if result.get(who)]
    if not found:
        return ["–", "–"]
    k, n = sum(e["successes"] for e in found), sum(e["n"] for e in found)
    rate, *interval = pooled_rate([[(e["successes"], e["n"]) for e in found]])
    pooled = {"successes": k, "n": n, "rate": rate, "interval": interval}
    return [rate_text(pooled), f"{sum(e['mean_length'] * e['n'] for e in found) / n:.1f}"]


def _check_sources(cell: Cell) -> None:
    """Reject a cell that started from other files than its base or start has now."""
    then = read_json(cell.run_dir / "env.json").get("sources", {})
    names = {
        role: name for role, name in (("base", cell.base), ("init", cell.pretrained_path)) if name is not None and role in then
    }
    check_same(str(cell.run_dir), names, then, sources(base=names.get("base"), init=names.get("init")))
