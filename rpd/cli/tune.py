"""`rpd tune`: search the settings of a method for a task; resumes, and prints the best as YAML."""

from __future__ import annotations

import contextlib
import shlex
from typing import Any

import torch
import yaml

from rpd.cli.options.tune import TuneOptions
from rpd.config.loader import with_limits
from rpd.config.tuning import check_space, nested, read_space, value_of
from rpd.envs import registry as envs
from rpd.launch import choose
from rpd.launch.base import Launcher
from rpd.students.io.locks import LOCK, locked
from rpd.students.io.outputs import made
from rpd.training.builders import make_policy, make_teacher
from rpd.training.tuning import PROBLEM, RUN, Search, Tuner, best_of, ended, open_study, outside
from rpd.training.tuning_record import RECORD, begin, write_record


def main(options: TuneOptions, words: list[str]) -> int:
    """Run the trials that are left and print the best settings; returns the exit code.

    Args:
        options: the options.
        words: arguments of ``rpd``, for the record.
    """
    space, config = read_space(options.space), with_limits(options.run_config())
    check_space(space, config, options.space)
    launcher = choose.make(options, torch.cuda.device_count())
    name = options.name or f"tune-{config.task.replace('/', '-')}-{config.algorithm}"
    search = Search(
        config,
        space,
        options.trials,
        options.seeds_per_trial,
        options.runs_dir / name,
        options.cpus_per_run,
        options.gpus_per_run,
    )
    with contextlib.closing(launcher), made(search.folder), locked(search.folder / LOCK, search.folder):
        with contextlib.closing(envs.make(config.task, config.env.model_copy(update={"num_envs": 1}), "cpu", 1)) as env:
            make_policy(config, env)
            make_teacher(config, env)
        return _run(search, options, launcher, shlex.join(["rpd", *words]))


def _run(search: Search, options: TuneOptions, launcher: Launcher, command: str) -> int:
    begin(search)
    study = open_study(search)
    at_once = options.jobs or launcher.at_once(search.job(0, search.seeds[0])) or 4
    tuner = Tuner(search, study, launcher, at_once)
    print(f"{search.trials} trials in {search.folder}, {len(ended(study))} of them ended", flush=True)
    if names := outside(search):
        values = ", ".join(f"{name} {value_of(search.config, name)}" for name in names)
        print(f"the present settings are no trial, {options.space} has no {values}", flush=True)
    for trial, progress in tuner.trials():
        write_record(search, study, options.space, command)
        print(f"trial {trial.user_attrs[RUN]}: {_outcome(trial)}; {progress}", flush=True)
    write_record(search, study, options.space, command)
    if tuner.interrupted:
        print(f"to continue: {command}", flush=True)
        return 130
    best = best_of(study)
    print(f"# best of {len(ended(study))} trials: trial {best.user_attrs[RUN]}, mean success of its curve {best.value:.3f}")
    print(f"# record: {search.folder / RECORD}")
    print(yaml.safe_dump(nested(best.params), sort_keys=False), end="", flush=True)
    return 0


def _outcome(trial: Any) -> str:
    if problem := trial.user_attrs.get(PROBLEM):
        return f"failed: {problem}"
    last = trial.value if trial.value is not None else list(trial.intermediate_values.values())[-1]
    return f"{last:.3f}" + (", stopped early" if trial.state.name == "PRUNED" else "")
