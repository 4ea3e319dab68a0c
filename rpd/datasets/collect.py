"""`rpd collect`: demonstrations of one or several tasks, recorded from any policy into one folder."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError, RunFault
from rpd.arguments import parse
from rpd.demos.episode import require
from rpd.demos.record import Take, play_round
from rpd.demos.recording import INDEX, Recording, Round, read_index
from rpd.demos.writer import RoundWriter
from rpd.policies import Policy, resolve
from rpd.progress import Display
from rpd.stats import format_rate
from rpd.trainer import resolve_device

GIVE_UP = 256
"""Episodes of a task without one that can be kept, after which there is no point in going on."""


class CollectConfig(BaseModel):
    """What is recorded: equal settings give equal files, where the environment is deterministic."""

    model_config = ConfigDict(extra="forbid")

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tasks, e.g. tabletop/PickCube tabletop/PushCube; see `rpd list`."""
    teacher: str | None = None
    """Teacher that acts, e.g. scripted; see `rpd list`."""
    policy: str | None = None
    """Who acts in place of a teacher: a run, checkpoint or policy folder; zero or random."""
    episodes: int = Field(1000, ge=1)
    """Episodes to keep, of each task."""
    keep: Literal["successes", "all"] = "successes"
    """Which episodes are kept."""
    noise: float = Field(0.0, ge=0, le=2)
    """Standard deviation of the noise on what is executed, in normalised units of action; labels stay the policy's own
    answers. 0.1 to 0.3 shows how to come back from small mistakes (DART, arXiv 1703.09327)."""
    noise_turn: float | None = Field(None, ge=0, le=2)
    """The same of turns alone (default: as noise). 0 where a small tilt is not seen: labels that undo it teach nothing."""
    privileged: bool = False
    """Record what only the simulator knows, too."""
    seed: int = Field(5_000_000, ge=0)
    """Seed of the first episode; evaluations and training use others."""
    per_file: int = Field(128, ge=1)
    """Episodes that are played before a file is written, what a crash can lose; rounded up to a multiple of env.num_envs."""
    env: EnvConfig = Field(default_factory=lambda: EnvConfig(num_envs=32, obs="image"))

    @property
    def actor(self) -> str:
        """Who acts, as `rpd eval` calls it."""
        return f"teacher:{self.teacher}" if self.teacher is not None else str(self.policy)


class CollectOptions(CollectConfig):
    """Record demonstrations of one or several tasks into one folder."""

    out: Path | None = None
    """Folder to write, e.g. demos/x."""
    resume: Path | None = None
    """Folder to continue, with its own settings; a larger --episodes adds to it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the simulator."""


def collect_options(args: list[str]) -> CollectOptions:
    """Read the command line; with --resume, over the settings of the folder.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    options = parse(CollectOptions, args, "rpd collect")
    if options.resume is not None:
        return _resumed(args, options.resume)
    if not options.tasks:
        raise ConfigError("which task? e.g. 'rpd collect tabletop/PickCube --teacher scripted --out demos/x'; see `rpd list`")
    if len(set(options.tasks)) < len(options.tasks):
        raise ConfigError(f"a task is given twice: {' '.join(options.tasks)}")
    if (options.teacher is None) == (options.policy is None):
        raise ConfigError("who acts? add one of --teacher, e.g. --teacher scripted, and --policy, e.g. --policy runs/x")
    if options.out is None:
        raise ConfigError("where to? add --out, e.g. --out demos/x")
    return options


def _resumed(args: list[str], folder: Path) -> CollectOptions:
    try:
        saved = CollectOptions.model_validate(read_index(folder)["settings"])
    except ValidationError as error:
        raise ConfigError(f"{folder / INDEX}: damaged settings: {error.errors()[0]['msg']}") from None
    options = parse(CollectOptions, args, "rpd collect", saved)
    for name in {**CollectConfig.model_fields, "out": None}:
        if getattr(options, name) != getattr(saved, name) and name != "episodes":
            option = "the tasks" if name == "tasks" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"--resume {folder} continues with its own settings: leave out {option}")
    if options.episodes < saved.episodes:
        raise ConfigError(f"--episodes {options.episodes}: {folder} was to have {saved.episodes}, and can only grow")
    return options


def main(options: CollectOptions) -> int:
    """Record; returns the exit code."""
    torch.set_num_threads(1)
    require("h5py")
    settings = options.model_dump(mode="json", include=set(CollectConfig.model_fields))
    if options.resume is not None:
        recording = Recording.open(options.resume)
        recording.settings = settings
        todo = [task for task in options.tasks if recording.next_round(task, options.episodes) is not None]
    else:
        recording = Recording(options.out or Path(), settings, {})
        recording.check_new()
        todo = list(options.tasks)
    with contextlib.closing(_stages(todo, options)) as stages:
        first = list(itertools.islice(stages, 1))
        recording.save()
        progress = _Progress(recording, options)
        try:
            for env, policy in itertools.chain(first, stages):
                _record(recording, env, policy, options, progress)
        except BaseException:
            print(f"to continue: rpd collect --resume {recording.folder}", flush=True)
            raise
        finally:
            progress.display.close()
    for task in options.tasks:
        rounds = recording.rounds[task]
        solved = format_rate(sum(r.successes for r in rounds), sum(r.attempts for r in rounds))
        print(f"{task}: {recording.kept(task):,} episodes, {sum(r.steps for r in rounds):,} steps; solved {solved}")
    print(f"demonstrations: {recording.folder}", flush=True)
    return 0


def _stages(tasks: list[str], options: CollectOptions) -> Generator[tuple[VectorEnv, Policy], None, None]:
    """Environment and policy of one task after the other; before the first, what is wrong with any of them has been said."""
    device = resolve_device(options.device)
    for number, task in enumerate(tasks):
        with contextlib.closing(envs.make(task, options.env, device, options.num_threads)) as env:
            policy = _actor(env, options)
            for other in tasks[1:] if number == 0 else ():
                one = options.env.model_copy(update={"num_envs": 1})
                with contextlib.closing(envs.make(other, one, device, options.num_threads)) as trial:
                    _actor(trial, options)
            yield env, policy


def _actor(env: VectorEnv, options: CollectOptions) -> Policy:
    if options.privileged and env.spec.layout is None:
        raise ConfigError(f"--privileged: {env.spec.task} does not offer its scene")
    return resolve(options.actor, env)


def _record(recording: Recording, env: VectorEnv, policy: Policy, options: CollectOptions, progress: _Progress) -> None:
    """Play rounds of one task until there are enough episodes of it."""
    task = env.spec.task
    while (number := recording.next_round(task, options.episodes)) is not None:
        earlier = recording.rounds.get(task, [])[:number]
        first, seed = sum(r.episodes for r in earlier), options.seed + number * env.num_envs
        spec, acted = env.spec.stacked(1), f"{options.actor}, noise {options.noise:g}"
        with RoundWriter(recording.folder, number, spec, options.env, acted) as file:
            recording.add(task, number, _round(file, env, policy, options, seed, first, progress))
        if not recording.kept(task) and (tried := sum(r.attempts for r in recording.rounds[task])) >= GIVE_UP:
            raise RunFault(f"{task}: {options.actor} solved none of {tried} episodes; --keep all keeps failures too")


def _round(
    file: RoundWriter, env: VectorEnv, policy: Policy, options: CollectOptions, seed: int, first: int, progress: _Progress
) -> Round:
    """Play one round, or less of it where that is enough; episode number `first` is its first one."""
    plays, wanted = math.ceil(options.per_file / env.num_envs), options.episodes - first
    ended, solved = [0] * env.num_envs, [0] * plays
    for take in play_round(env, policy, seed, plays, options.noise, options.noise_turn, options.privileged):
        success = bool(take.episode.info.success)
        if success or options.keep == "all":
            file.add(take)
        solved[take.play] += success
        ended[take.env] += 1
        # What counts are plays that every environment has ended: among the others, short episodes are too many.
        complete = min(ended)
        kept = file.count(complete)
        progress.add(take, first + min(kept, wanted))
        if kept >= wanted:
            break
    return file.close(first, wanted, env.num_envs * complete, sum(solved[:complete]), cut=complete < plays or kept > wanted)


class _Progress:
    """How far a recording is, over all tasks."""

    def __init__(self, recording: Recording, options: CollectOptions) -> None:
        total, kept = options.episodes * len(options.tasks), sum(map(recording.kept, options.tasks))
        self.recording, self.tasks = recording, options.tasks
        self.display = Display(total, kept)
        self.began, self.steps, self.played, self.solved = time.monotonic(), 0, 0, 0

    def add(self, take: Take, kept: int) -> None:
        """Count an episode; `kept` are those of its task."""
        info = take.episode.info
        self.steps, self.played, self.solved = self.steps + info.length, self.played + 1, self.solved + bool(info.success)
        others = sum(self.recording.kept(task) for task in self.tasks if task != info.task)
        rate = self.steps / (time.monotonic() - self.began)
        self.display.update(others + kept, {"time/sps": rate, "rollout/success": self.solved / self.played})
