"""Search of settings: trials of optuna as ordinary runs, stopped early by their learning curves."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rpd.config.loader import change
from rpd.config.schema import RunConfig
from rpd.config.tuning import Dimension, Space, nested, value_of
from rpd.core.files import write_text
from rpd.core.interrupt import Interrupt
from rpd.core.seeds import TUNING_SEED
from rpd.envs.errors import RunFault, missing_package
from rpd.launch.base import Launcher, Running
from rpd.launch.job import Job
from rpd.reporting.text import duration
from rpd.runs.reader import valid_result
from rpd.runs.tracker import read_metrics
from rpd.students.io.locks import LOCK

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

JOURNAL = "study.jsonl"
RUN, PROBLEM, STEPS = "run", "problem", "steps"
"""Attributes of a trial: number of its runs' folders, why it failed, environment steps it used."""


@dataclass(frozen=True)
class Search:
    """A search of settings in a folder."""

    config: RunConfig
    """Configuration of all runs, without the settings that are searched."""
    space: Space
    trials: int
    seeds_per_trial: int
    folder: Path
    cpus: int = 1
    gpus: float | None = None

    @property
    def seeds(self) -> range:
        """Training seeds of each trial."""
        return range(TUNING_SEED, TUNING_SEED + self.seeds_per_trial)

    def job(self, number: int, seed: int) -> Job:
        """The run of a trial's settings with one seed; continues if it exists."""
        name = run_name(number, seed)
        run_dir, config = self.folder / name, settings_file(self.folder, number)
        return Job(
            name=name,
            words=(
                "train", self.config.task, "--config", str(config), "--seed", str(seed), "--num-threads", str(self.cpus),
                "--runs-dir", str(self.folder), "--name", name,
            ),
            log=self.folder / "logs" / f"{name}.log",
            again=("train", "--resume", str(run_dir)),
            begun=(run_dir / "config.yaml",),
            lock=run_dir / LOCK,
            cpus=self.cpus,
            gpus=self.gpus,
        )  # fmt: skip


@dataclass
class Slot:
    """A trial that runs."""

    trial: Trial
    number: int
    seed: int
    running: Running
    began: float = field(default_factory=time.monotonic)
    curve: list[float] = field(default_factory=list)
    pruned: bool = False


def run_name(number: int, seed: int) -> str:
    """Name of a run's folder."""
    return f"trial-{number:03d}-seed{seed}"


def settings_file(folder: Path, number: int) -> Path:
    """Settings file of a trial."""
    return folder / f"trial-{number:03d}.yaml"


def open_study(search: Search) -> Study:
    """Open the study of a folder, or begin it with the settings that the task has now.

    Trials that an interruption cut off are queued again, with their run folders.

    Raises:
        ConfigError: optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise missing_package("rpd tune", "optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = search.folder / JOURNAL
    new = not file.exists()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    # The seed depends on the trials that exist, so that a continued search does not repeat its draws.
    study.sampler = optuna.samplers.TPESampler(seed=TUNING_SEED + len(study.trials), constant_liar=True)
    if new and not outside(search):
        study.enqueue_trial({name: value_of(search.config, name) for name in search.space})
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={RUN: trial.user_attrs.get(RUN, trial.number)})
    return study


def outside(search: Search) -> list[str]:
    """Options whose present values are not in the space: with any of them, the present settings are no trial."""
    return [name for name, dimension in search.space.items() if not dimension.holds(value_of(search.config, name))]


def ended(study: Study) -> list[Any]:
    """Trials that used their part of the budget: complete, pruned or failed, without those that an interruption cut off."""
    return [t for t in study.trials if t.state.is_finished() and (t.state.name != "FAIL" or PROBLEM in t.user_attrs)]


class Tuner:
    """Runs the trials of a search.

    Args:
        search: what to search.
        study: from `open_study`.
        launcher: where the runs happen.
        at_once: runs at a time.

    Attributes:
        interrupted: whether the user stopped the search.
    """

    def __init__(self, search: Search, study: Study, launcher: Launcher, at_once: int) -> None:
        self.interrupted = False
        self._search, self._study, self._launcher = search, study, launcher
        self._left = max(0, search.trials - len(ended(study)))
        self._at_once = min(at_once, max(self._left, 1))
        self._slots: dict[int, Slot] = {}
        self._lengths: list[float] = []
        if self._left:
            launcher.check([search.job(0, TUNING_SEED)], search.folder)

    def trials(self) -> Iterator[tuple[Any, str]]:
        """Run the trials that are left; yield each that has ended, with the progress."""
        with Interrupt() as interrupt:
            try:
                while self._slots or (self._left and not interrupt.requested):
                    if not interrupt.requested:
                        self._fill()
                    elif not self.interrupted:
                        self.interrupted = True
                        for slot in self._slots.values():
                            slot.running.stop()
                    yield from self._poll()
                    if self._slots:
                        time.sleep(self._launcher.poll_s)
            finally:
                for slot in self._slots.values():
                    slot.running.kill()
                self.interrupted |= interrupt.requested

    def _fill(self) -> None:
        for place in range(self._at_once):
            if place not in self._slots and self._left:
                self._left -= 1
                trial = self._study.ask({name: distribution(d) for name, d in self._search.space.items()})
                number = trial.user_attrs.get(RUN, trial.number)
                trial.set_user_attr(RUN, number)
                config = change(self._search.config, nested(trial.params))
                write_text(settings_file(self._search.folder, number), yaml.safe_dump(config.model_dump(mode="json")))
                self._slots[place] = Slot(trial, number, TUNING_SEED, self._start(number, TUNING_SEED, place))

    def _start(self, number: int, seed: int, place: int) -> Running:
        return self._launcher.start(self._search.job(number, seed), place)

    def _poll(self) -> Iterator[tuple[Any, str]]:
        for place, slot in list(self._slots.items()):
            end = slot.running.poll()
            if not slot.pruned:
                self._report(slot)
            if end is None:
                continue
            if not slot.pruned and end.code == 0 and slot.seed != self._search.seeds[-1] and not self.interrupted:
                slot.seed += 1
                slot.running = self._start(slot.number, slot.seed, place)
                continue
            del self._slots[place]
            if self.interrupted and not slot.pruned and (end.code != 0 or slot.seed != self._search.seeds[-1]):
                continue  # continues with the next start
            problem = "" if end.code == 0 or slot.pruned else end.problem or f"exit code {end.code}"
            yield self._tell(slot, problem), self._progress()

    def _report(self, slot: Slot) -> None:
        """Hand new points of the learning curve to the study, and end a run that is worse than most."""
        runs = [self._search.folder / run_name(slot.number, seed) for seed in range(TUNING_SEED, slot.seed + 1)]
        points = [
            (i * self._search.config.total_timesteps + int(m["step"]), m["eval/success_once"])
            for i, run in enumerate(runs)
            for m in read_metrics(run)
            if "eval/success_once" in m
        ]
        for step, success in points[len(slot.curve) :]:
            slot.curve.append(success)
            slot.trial.report(sum(slot.curve) / len(slot.curve), step)
            if not slot.pruned and slot.trial.should_prune() and not valid_result(runs[-1]):
                slot.pruned = True
                slot.running.kill()

    def _tell(self, slot: Slot, problem: str) -> Any:
        """Record the end of a trial; returns it."""
        from optuna.trial import TrialState

        runs = [self._search.folder / run_name(slot.number, seed) for seed in self._search.seeds]
        slot.trial.set_user_attr(STEPS, int(sum(max((m["step"] for m in read_metrics(run)), default=0) for run in runs)))
        if not problem and not slot.curve:
            problem = "no evaluation"
        if problem:
            slot.trial.set_user_attr(PROBLEM, f"{problem}, see {self._search.job(slot.number, slot.seed).log}")
            self._study.tell(slot.trial, state=TrialState.FAIL)
        elif slot.pruned:
            self._study.tell(slot.trial, state=TrialState.PRUNED)
        else:
            self._study.tell(slot.trial, sum(slot.curve) / len(slot.curve))
        for run in runs:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(run / "checkpoints")
        self._lengths.append(time.monotonic() - slot.began)
        return next(t for t in self._study.trials if t.number == slot.trial.number)

    def _progress(self) -> str:
        left = self._left + len(self._slots)
        text = f"{len(ended(self._study))} of {self._search.trials} ended"
        seconds = sum(self._lengths) / len(self._lengths) * left / self._at_once
        return f"{text}, about {duration(seconds)} left" if left else text


def best_of(study: Study) -> Any:
    """The complete trial with the highest value.

    Raises:
        RunFault: no trial is complete.
    """
    from optuna.trial import TrialState

    if not (complete := study.get_trials(states=(TrialState.COMPLETE,))):
        raise RunFault("no trial is complete: see the logs")
    return max(complete, key=lambda t: (t.value, -t.number))


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    low, high = dimension.low, dimension.high
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=dimension.log)
    assert low is not None and high is not None
    return FloatDistribution(low, high, log=dimension.log)
