"""`rpd data collect`: record demonstrations of one or more tasks with any policy into one folder."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import torch

from rpd.cli.options.collect import CollectOptions
from rpd.config.collect import CollectConfig
from rpd.core.statistics import format_rate
from rpd.datasets.collect import _Progress, _record, _stages
from rpd.datasets.dataset_dir import Recording, create_dataset_dir
from rpd.datasets.episode import require
from rpd.policies.identity import check_same, identity
from rpd.students.io.locks import LOCK, locked


def main(options: CollectOptions) -> int:
    """Record; returns the exit code."""
    torch.set_num_threads(1)
    require("h5py")
    settings = options.model_dump(mode="json", include=set(CollectConfig.model_fields))
    known = identity(options.policy)
    if options.resume is not None:
        with locked(options.resume / LOCK, options.resume):
            recording = Recording.open(options.resume)
            check_same(str(options.resume), {"actor": options.policy}, {"actor": recording.identity}, {"actor": known})
            recording.settings = settings
            return _collect(recording, options)
    with create_dataset_dir(folder := options.out or Path()):
        return _collect(Recording(folder, settings, {}, known), options)


def _collect(recording: Recording, options: CollectOptions) -> int:
    todo = [task for task in options.tasks if recording.next_round(task, options.episodes) is not None]
    with contextlib.closing(_stages(todo, options, options.device, options.num_threads)) as stages:
        first = list(itertools.islice(stages, 1))
        recording.save()
        progress = _Progress(recording, options)
        try:
            for env, policy in itertools.chain(first, stages):
                _record(recording, env, policy, options, progress)
        except BaseException:
            print(f"to continue: rpd data collect --resume {recording.folder}", flush=True)
            raise
        finally:
            progress.display.close()
    for task in options.tasks:
        rounds = recording.rounds[task]
        solved = format_rate(sum(r.successes for r in rounds), sum(r.attempts for r in rounds))
        print(f"{task}: {recording.kept(task):,} episodes, {sum(r.steps for r in rounds):,} steps; solved {solved}")
    print(f"demonstrations: {recording.folder}", flush=True)
    return 0
