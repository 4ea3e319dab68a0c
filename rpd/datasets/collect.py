"""Record demonstrations with any policy."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Generator

import torch

from rpd.config.collect import CollectConfig
from rpd.core import memory
from rpd.core.device import resolve_device
from rpd.core.memory import Item
from rpd.datasets.dataset_dir import Recording, Round
from rpd.datasets.recorder import Take, play_round
from rpd.datasets.writer import RoundWriter
from rpd.envs import registry as envs
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.vector_env import VectorEnv
from rpd.policies.base import Policy
from rpd.policies.loading import load_policy
from rpd.policies.made_for import remarks
from rpd.runs.progress import Display

LOG = logging.getLogger(__name__)

GIVE_UP = 256
"""Number of episodes of a task, none of which could be kept, after which recording stops."""


def _stages(
    tasks: list[str], options: CollectConfig, device_name: str, num_threads: int | None
) -> Generator[tuple[VectorEnv, Policy], None, None]:
    """Yield environment and policy of each task; all tasks are checked before the first is yielded."""
    device = resolve_device(device_name)
    for number, task in enumerate(tasks):
        with contextlib.closing(envs.make(task, options.env, device, num_threads)) as env:
            policy = _actor(env, options)
            check_tapes(env)
            for other in tasks[1:] if number == 0 else ():
                one = options.env.model_copy(update={"num_envs": 1})
                with contextlib.closing(envs.make(other, one, device, num_threads)) as trial:
                    _actor(trial, options)
            for note in remarks(env.spec, options.policy):
                LOG.warning(f"{task}: {note}")
            yield env, policy


def check_tapes(env: VectorEnv) -> None:
    """Check that the running episodes of all environments fit into memory; images are recorded without frame stacking.

    Raises:
        ConfigError: one line that names the requirement and the available memory.
    """
    row = sum(math.prod(o.shape) * (1 if o.dtype == "uint8" else 4) for o in env.spec.stacked(1).observations.values())
    # solved episodes end early: assume a tenth of the maximum length on average
    steps, what = env.num_envs * env.spec.max_episode_steps // 10, f"{env.num_envs:,} running episodes of {env.spec.task}"
    memory.check([Item("recording", f"{steps:,} steps", steps * row, torch.device("cpu"))], what, "lower env.num_envs")


def _actor(env: VectorEnv, options: CollectConfig) -> Policy:
    if options.privileged and env.spec.layout is None:
        raise ConfigError(f"--privileged: {env.spec.task} does not offer its scene")
    return load_policy(options.policy, env)


def _record(recording: Recording, env: VectorEnv, policy: Policy, options: CollectConfig, progress: _Progress) -> None:
    """Run rounds of one task until enough episodes are recorded."""
    task = env.spec.task
    while (number := recording.next_round(task, options.episodes)) is not None:
        earlier = recording.rounds.get(task, [])[:number]
        first, seed = sum(r.episodes for r in earlier), options.seed + number * env.num_envs
        spec, acted = env.spec.stacked(1), f"{options.policy}, noise {options.noise:g}"
        with RoundWriter(recording.folder, number, spec, options.env, acted) as file:
            recording.add(task, number, _round(file, env, policy, options, seed, first, progress))
        if not recording.kept(task) and (tried := sum(r.attempts for r in recording.rounds[task])) >= GIVE_UP:
            raise RunFault(f"{task}: {options.policy} solved none of {tried} episodes; --keep all keeps failures too")


def _round(
    file: RoundWriter, env: VectorEnv, policy: Policy, options: CollectConfig, seed: int, first: int, progress: _Progress
) -> Round:
    """Run one round, or a part of it if that is enough; `first` is the number of its first episode."""
    plays, wanted = math.ceil(options.per_file / env.num_envs), options.episodes - first
    ended, solved = [0] * env.num_envs, [0] * plays
    for take in play_round(env, policy, seed, plays, options.noise, options.noise_turn, options.privileged):
        success = bool(take.episode.info.success)
        if success or options.keep == "all":
            file.add(take)
        solved[take.play] += success
        ended[take.env] += 1
        # Only plays that every environment has completed count: short episodes are overrepresented in the others.
        complete = min(ended)
        kept = file.count(complete)
        progress.add(take, first + min(kept, wanted))
        if kept >= wanted:
            break
    return file.close(first, wanted, env.num_envs * complete, sum(solved[:complete]), cut=complete < plays or kept > wanted)


class _Progress:
    """Progress display over all tasks of a recording."""

    def __init__(self, recording: Recording, options: CollectConfig) -> None:
        total, kept = options.episodes * len(options.tasks), sum(map(recording.kept, options.tasks))
        self.recording, self.tasks = recording, options.tasks
        self.display = Display(total, kept)
        self.began, self.steps, self.played, self.solved = time.monotonic(), 0, 0, 0

    def add(self, take: Take, kept: int) -> None:
        """Count an episode; `kept` is the number of kept episodes of its task."""
        info = take.episode.info
        self.steps, self.played, self.solved = self.steps + info.length, self.played + 1, self.solved + bool(info.success)
        others = sum(self.recording.kept(task) for task in self.tasks if task != info.task)
        rate = self.steps / (time.monotonic() - self.began)
        self.display.update(others + kept, {"time/fps": rate, "rollout/success": self.solved / self.played})
