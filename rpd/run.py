"""A run from its folder's point of view: started, resumed, interrupted, finished."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from envs.errors import ConfigError, RunFault
from rpd import checkpoint, settings
from rpd.config import RunConfig
from rpd.runs import read_json
from rpd.trainer import Trainer


def start(config: RunConfig, runs_dir: Path, name: str | None) -> int:
    """Train in a new folder; returns the exit code."""
    label = name or f"{config.task.replace('/', '-')}-{config.mode}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = runs_dir / label
    if run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(
            f"{run_dir} exists already: choose another --name, or continue it with 'rpd train --resume {run_dir}'"
        )
    return _train(Trainer(config, run_dir), run_dir)


def resume(run_dir: Path) -> int:
    """Continue from the newest sound checkpoint; returns the exit code."""
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"{run_dir} is not a run that can be resumed: it has no config.yaml")
    config = settings.validate(settings.file_settings(run_dir / "config.yaml"), str(run_dir / "config.yaml"))
    if not any((run_dir / "checkpoints").glob("[0-9]*")):
        print(f"{run_dir} stopped before its first checkpoint: starting it again", flush=True)
        return _train(Trainer(config, run_dir), run_dir)
    saved, problems = checkpoint.newest_sound(run_dir)
    for problem in problems:
        print(f"skipped: {problem}", flush=True)
    if saved.step >= config.total_steps and (run_dir / "result.json").exists():
        print(f"{run_dir} is complete: {saved.step:,} steps")
        return 0
    print(f"resuming {run_dir} at {saved.step:,} steps", flush=True)
    return _train(Trainer(config, run_dir, saved), run_dir)


def _train(trainer: Trainer, run_dir: Path) -> int:
    try:
        complete = trainer.run()
    except RunFault:
        print(f"to continue from the newest checkpoint: rpd train --resume {run_dir}", flush=True)
        raise
    if not complete:
        print(f"stopped at {trainer.step:,} steps. To continue: rpd train --resume {run_dir}", flush=True)
        return 130
    _print_result(run_dir)
    return 0


def _print_result(run_dir: Path) -> None:
    from rpd.report import write
    from rpd.tables import result_table

    console = Console()
    console.print(result_table(read_json(run_dir / "result.json")))
    console.print(f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False)
