"""Start, resume and complete the runs of `rpd train` and `rpd residual`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rpd.config import loader
from rpd.config import resume as resuming
from rpd.config.schema import RunConfig
from rpd.core.distributed import World
from rpd.core.joining import joined, rank_device
from rpd.core.user_code import record_imports
from rpd.envs.errors import ConfigError
from rpd.policies.made_for import remarks
from rpd.runs import checkpoint, lifecycle
from rpd.runs.reader import Run, read_run
from rpd.runs.same_program import same_run
from rpd.training import guard
from rpd.training.behavior_cloning import BehaviorCloningTrainer
from rpd.training.on_policy import OnPolicyTrainer
from rpd.training.rank_setup import on_this_machine

LOG = logging.getLogger(__name__)
COMMAND = "rpd train"


def train(config: RunConfig | None = None, *, runs_dir: Path | str = "runs", name: str | None = None, **options: Any) -> Run:
    """Train a student in a new run folder.

    ``rpd.train(task="tabletop/PickCube", teacher="scripted:noisy", env={"num_envs": 64})`` trains with the task's default
    settings, overridden by these options, as `rpd train` does.

    Tasks whose simulator runs in worker processes (ManiSkill on CPU, LIBERO) need an importable script: call this function
    below ``if __name__ == "__main__":``.

    Args:
        config: the whole configuration, e.g. from `rpd.configure`; None: the default settings of ``options["task"]``.
        runs_dir: parent folder of the run folder.
        name: name of the run folder; None: task, algorithm, seed and time.
        options: nested options of `RunConfig` that override `config`, e.g. ``seed=1``, ``env={"robot": "xarm6"}``. With
            ``base``, a residual policy is trained.

    Returns:
        The complete run: its folder (``path``), metrics, and in ``summary`` the final comparison of student and teacher.

    Raises:
        ConfigError: an invalid configuration, or the run folder exists; raised before training.
        RunFault: the run cannot continue, e.g. NaN, a lost policy server or a dead worker.
        OSError: the run folder cannot be written.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after an iteration and a checkpoint; continue with `resume`.
    """
    chosen = loader.with_limits(_configured(config, options))
    kind = "residual" if chosen.base is not None else chosen.algorithm
    stem = f"{chosen.task.replace('/', '-')}-{kind}-seed{chosen.seed}"
    with (
        joined(rank_device(chosen.device)) as world,
        same_run(world, chosen, lambda: lifecycle.create_run_dir(Path(runs_dir), name, stem, COMMAND)) as run_dir,
    ):
        return _complete(_trainer(chosen, run_dir, None, world))


def resume(run_dir: Path | str, **options: Any) -> Run:
    """Continue a run from its newest valid checkpoint, with the configuration in its config.yaml.

    The result is bit-identical to that of an uninterrupted run if the simulator's state can be restored exactly. A complete
    run is left unchanged, unless `options` set more steps: then training continues.

    Args:
        run_dir: run folder.
        options: nested options of `RunConfig` that override the run's configuration: length, evaluations, checkpoints, device,
            and others that may change within a run (`rpd.config.resume.MAY_CHANGE`). Written to config.yaml when training
            continues.

    Returns:
        The complete run, see `train`.

    Raises:
        ConfigError: no run to continue, no valid checkpoint, or a changed option (given, or edited in config.yaml) that must
            not change within a run.
        RunFault: see `train`.
        OSError: see `train`.
        KeyboardInterrupt: see `train`.
    """
    run_dir = Path(run_dir)
    config = _configuration(run_dir)
    wanted = loader.change(config, options)
    with (
        joined(rank_device(wanted.device)) as world,
        same_run(world, wanted, lambda: lifecycle.lock_run_dir(run_dir)),
    ):
        saved = lifecycle.load_latest_checkpoint(run_dir, config, world)
        changes = resuming.changes(run_dir, config, wanted)
        config = wanted
        if saved is not None and lifecycle.is_complete(run_dir, config.total_timesteps):
            if changes:
                raise ConfigError(f"{run_dir} is complete: {saved.step:,} steps, {changes[0]}: ask for more steps to go on")
            LOG.info(f"{run_dir} is complete: {saved.step:,} steps")
            return read_run(run_dir)
        if changes:
            LOG.info(f"changed: {', '.join(changes)}")
        if saved is None:
            LOG.info(f"{run_dir} stopped before its first checkpoint: starting again")
            return _complete(_trainer(config, run_dir, None, world))
        LOG.info(f"resuming {run_dir} at {saved.step:,} steps")
        trainer = _trainer(config, run_dir, saved, world)
        if not trainer.exact_resume:
            LOG.info(f"the simulator of {config.task} is restored up to rounding: results differ from an uninterrupted run")
        return _complete(trainer)


def _configured(config: RunConfig | None, options: dict[str, Any]) -> RunConfig:
    """Return a configuration, or the default settings of the task in `options`, overridden by `options`."""
    if config is not None:
        return loader.change(config, options)
    if "task" not in options:
        raise ConfigError("which task? e.g. rpd.train(task='tabletop/PickCube', teacher='scripted:noisy')")
    return loader.configure(options.pop("task"), options)


def _configuration(run_dir: Path) -> RunConfig:
    """Read the configuration of a run.

    Raises:
        ConfigError: see `resume`.
    """
    lifecycle.check_run_dir(run_dir)
    config = loader.validate(loader.run_settings(run_dir / "config.yaml"), str(run_dir / "config.yaml"))
    record_imports(run_dir)
    return config


def _trainer(
    config: RunConfig, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World
) -> OnPolicyTrainer | BehaviorCloningTrainer:
    with world.together():
        return _built(config, run_dir, saved, world)


def _built(
    config: RunConfig, run_dir: Path, saved: checkpoint.Checkpoint | None, world: World
) -> OnPolicyTrainer | BehaviorCloningTrainer:
    guard.check(on_this_machine(config, world))
    teacher = f" and teacher {config.teacher}{_heard(config)}" if config.teacher is not None else ""
    spread = f" on {world.size} ranks" if world.size > 1 else ""
    LOG.info(f"building {config.env.num_envs} environments of {config.task}{teacher}{spread}")
    trainer = (BehaviorCloningTrainer if config.algorithm == "bc" else OnPolicyTrainer)(config, run_dir, saved, world)
    for note in remarks(trainer.env.spec, config.teacher, config.base, config.pretrained_path):
        LOG.warning(note)
    return trainer


def _heard(config: RunConfig) -> str:
    """Remark about when the teacher's weight reaches zero; empty: never."""
    steps = config.distill.decay_steps
    if config.algorithm != "rpd" or config.distill.schedule in ("constant", "piecewise"):
        return ""
    after = ", after the end of this run" if steps > config.total_timesteps else ""
    return f", whose weight reaches zero at {steps:,} steps{after}"


def _complete(trainer: OnPolicyTrainer | BehaviorCloningTrainer) -> Run:
    lifecycle.run_to_completion(trainer, COMMAND)
    return read_run(trainer.run_dir)
