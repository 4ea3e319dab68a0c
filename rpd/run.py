"""A run from its folder's point of view: started, resumed, interrupted, finished."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from envs.errors import ConfigError, unknown_name
from rpd import checkpoint, lifecycle, settings
from rpd.config import RunConfig
from rpd.diffusion.trainer import DiffusionTrainer
from rpd.report import write
from rpd.runs import near, read_json
from rpd.tables import result_table
from rpd.trainer import Trainer

COMMAND = "rpd train"


def start(config: RunConfig, runs_dir: Path, name: str | None) -> int:
    """Train in a new folder; returns the exit code."""
    kind = "residual" if config.base is not None else config.mode
    label = name or f"{config.task.replace('/', '-')}-{kind}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = runs_dir / label
    lifecycle.claim(run_dir, COMMAND)
    for folder in (runs_dir, run_dir):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file: runs need a folder, choose another --runs-dir or --name")
    return _train(_trainer(config, run_dir))


def resume(run_dir: Path) -> int:
    """Continue from the newest sound checkpoint; returns the exit code."""
    if not run_dir.exists() and (runs := near(run_dir)):
        raise unknown_name("run", str(run_dir), runs)
    if not (run_dir / "config.yaml").is_file():
        raise lifecycle.not_a_run(run_dir)
    config = settings.validate(settings.file_settings(run_dir / "config.yaml"), str(run_dir / "config.yaml"))
    saved = lifecycle.newest(run_dir)
    if saved is None:
        print(f"{run_dir} stopped before its first checkpoint: starting it again", flush=True)
        return _train(_trainer(config, run_dir))
    if saved.step >= config.total_steps and (run_dir / "result.json").exists():
        print(f"{run_dir} is complete: {saved.step:,} steps")
        return 0
    print(f"resuming {run_dir} at {saved.step:,} steps", flush=True)
    trainer = _trainer(config, run_dir, saved)
    if not trainer.exact_resume:
        print(f"{config.task} restores its simulation up to rounding: expect other numbers than without the stop", flush=True)
    return _train(trainer)


def _trainer(config: RunConfig, run_dir: Path, saved: checkpoint.Checkpoint | None = None) -> Trainer | DiffusionTrainer:
    return (DiffusionTrainer if config.student.kind == "diffusion" else Trainer)(config, run_dir, saved)


def _train(trainer: Trainer | DiffusionTrainer) -> int:
    if not lifecycle.see_through(trainer, COMMAND):
        return 130
    run_dir, console = trainer.run_dir, Console()
    console.print(result_table(read_json(run_dir / "result.json")))
    console.print(f"run: {run_dir}\nreport: {write([run_dir])}", highlight=False, soft_wrap=True)
    return 0
