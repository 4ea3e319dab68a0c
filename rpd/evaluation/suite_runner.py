"""`rpd eval --suite`: a policy on every task of a suite, in shards if need be, continued where it was interrupted.

The folder of an evaluation holds one file of episodes per task and shard. Whoever finishes writes the summary of all that are
there, so shards that write to one folder, or whose folders are copied into one, are merged by the last of them; and an
evaluation that was interrupted goes on with the episodes that are missing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.base import EnvConfig
from envs.errors import ConfigError
from rpd.atomic import write_json, write_text
from rpd.evaluate import SCHEMA_VERSION, EpisodeRecord, EvalResult, evaluate
from rpd.machine import environment_info
from rpd.page import rate_text
from rpd.policies import resolve, teacher_of
from rpd.report import write_evaluation
from rpd.suites import Suite
from rpd.trainer import resolve_device
from rpd.video import GridRecorder

SETTINGS, VIDEOS = "suite.json", "videos"
TILES = 4
"""Episodes of each task in its video: simulators draw slowly, and a suite has many tasks."""


@dataclass(frozen=True)
class Shard:
    """The part of an evaluation that one process does: number `index`, from 1, of `count`."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read e.g. ``"2/4"``.

        Raises:
            ConfigError: it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard {text}: give its number and how many there are, e.g. 1/4")
        return cls(int(match[1]), int(match[2]))

    def share(self, suite: Suite, seeds: range) -> dict[str, range]:
        """The seeds of this shard by task: consecutive ones, so that few tasks have to be built twice."""
        total = len(suite.tasks) * len(seeds)
        first, last = (total * i // self.count for i in (self.index - 1, self.index))
        shares = {}
        for number, task in enumerate(suite.tasks):
            begin, end = (min(max(x - number * len(seeds), 0), len(seeds)) for x in (first, last))
            if begin < end:
                shares[task] = seeds[begin:end]
        return shares


@dataclass(frozen=True)
class SuiteRun:
    """What an evaluation is; equal ones can be merged.

    Attributes:
        suite: which.
        policy: as `rpd eval` calls it.
        episodes: of each task.
        seed: of the first episode of each task.
        configs: the environment of each task.
        sampler: of a diffusion policy.
    """

    suite: Suite
    policy: str
    episodes: int
    seed: int
    configs: dict[str, EnvConfig]
    sampler: str | None = None

    def settings(self) -> dict[str, Any]:
        """As JSON values, without what does not change results."""
        config = next(iter(self.configs.values()))
        env = config.model_dump(mode="json", exclude_none=True, exclude={"num_envs", "num_workers"})
        drawn = {} if self.sampler is None else {"sampler": self.sampler}
        return {
            "suite": self.suite.name, "policy": self.policy, "episodes": self.episodes, "seed": self.seed, "env": env, **drawn
        }  # fmt: skip

    @property
    def name(self) -> str:
        """The policy's name in results."""
        return teacher_of(self.policy) or self.policy

    @property
    def seeds(self) -> range:
        """Of each task's episodes."""
        return range(self.seed, self.seed + self.episodes)


def run(what: SuiteRun, folder: Path, shard: Shard, device: str, num_threads: int | None, film: bool = False) -> dict[str, Any]:
    """Play the episodes of a shard that are missing in the folder; summarise all that are there.

    Args:
        what: the evaluation.
        folder: of its results.
        shard: which part of it.
        device: as `resolve_device` reads it.
        num_threads: CPU threads of the simulator.
        film: make a video of each task's first episodes, ``videos/<task>.mp4``.

    Returns:
        The summary, as in eval.json.

    Raises:
        ConfigError: the folder holds another evaluation.
    """
    _claim(what, folder)
    for task, seeds in shard.share(what.suite, what.seeds).items():
        missing = sorted(set(seeds) - {e.seed for e in _episodes(folder, task)})
        if missing:
            _play(what, folder, task, shard, missing, device, num_threads, film)
    return _summarise(what, folder)


def show(summary: dict[str, Any], folder: Path, expected: int) -> None:
    """Print a summary per task and in total."""
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
    console.print(table)
    if summary["n"] < expected:
        rest = f"{summary['n']} of {expected} episodes are here; the other shards, or the same command, add the rest"
        console.print(rest, highlight=False, soft_wrap=True)
    console.print(f"results: {folder}", highlight=False, soft_wrap=True)


def _play(
    what: SuiteRun, folder: Path, task: str, shard: Shard, missing: list[int], device: str, num_threads: int | None, film: bool
) -> None:
    """Play episodes of a task, and write them down after every batch; film those that begin with the task's first."""
    file = folder / "episodes" / f"{_slug(task)}.{shard.index}-of-{shard.count}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = _read(file)
    config = what.configs[task].model_copy(update={"num_envs": min(what.configs[task].num_envs, len(missing))})
    with contextlib.closing(envs.make(task, config, resolve_device(device), num_threads)) as env:
        policy = resolve(what.policy, env, what.sampler)
        for batch in _batches(missing, config.num_envs):
            filmed = film and batch[0] == what.seed
            path = folder / VIDEOS / f"{_slug(task)}.mp4"
            video = GridRecorder(path, env.spec.control_hz, what.seed, TILES) if filmed else None
            with video or contextlib.nullcontext():
                done += evaluate(env, policy, len(batch), batch[0], video).episodes
            write_text(file, "".join(json.dumps(asdict(e)) + "\n" for e in done))
    solved = sum(e.success_once for e in done)
    print(f"{task}: {solved}/{len(done)} in this shard", flush=True)


def _batches(seeds: list[int], size: int) -> Iterator[list[int]]:
    """Consecutive seeds, at most `size` together."""
    batch: list[int] = []
    for seed in seeds:
        if batch and (len(batch) == size or seed != batch[-1] + 1):
            yield batch
            batch = []
        batch.append(seed)
    yield batch


def _summarise(what: SuiteRun, folder: Path) -> dict[str, Any]:
    """Write eval.json, episodes.jsonl and report.html of everything that is in the folder."""
    by_task = {task: _episodes(folder, task) for task in what.suite.tasks}
    rows = [
        EvalResult(task, what.name, tuple(episodes)).to_dict() | {"instruction": envs.task_info(task).instruction}
        for task, episodes in by_task.items()
        if episodes
    ]
    everything = EvalResult(what.suite.name, what.name, tuple(e for episodes in by_task.values() for e in episodes))
    summary = {
        "schema_version": SCHEMA_VERSION,
        **everything.to_dict(),
        "mean_rate": sum(row["rate"] for row in rows) / len(rows),
        "env": what.settings()["env"],
        "tasks": rows,
        **environment_info(),
    }
    lines = [json.dumps({"task": task, **asdict(e)}) for task, episodes in by_task.items() for e in episodes]
    write_text(folder / "episodes.jsonl", "".join(line + "\n" for line in lines))
    write_json(folder / "eval.json", summary)
    write_evaluation(folder)
    return summary


def _claim(what: SuiteRun, folder: Path) -> None:
    file = folder / SETTINGS
    if file.exists():
        theirs, ours = json.loads(file.read_text()), what.settings()
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ConfigError(f"--out {folder} holds another evaluation: its {key} is {theirs.get(key)}, not {value}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, what.settings())


def _episodes(folder: Path, task: str) -> list[EpisodeRecord]:
    """All of a task's episodes in a folder, whichever shard played them, in the order of their seeds."""
    found = {e.seed: e for file in sorted((folder / "episodes").glob(f"{_slug(task)}.*.jsonl")) for e in _read(file)}
    return [found[seed] for seed in sorted(found)]


def _read(file: Path) -> list[EpisodeRecord]:
    return [EpisodeRecord(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def _slug(task: str) -> str:
    return re.sub(r"[^\w-]+", "-", task)
