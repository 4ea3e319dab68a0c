"""`rpd eval --suite`: evaluate a policy on every task of a suite, optionally in shards; resumes after an interruption.

The result folder holds one file of episodes per task and shard. Each shard that ends writes the summary of all episodes in the
folder, so shards that write to one folder, or whose folders are copied into one, are merged by the last one. An interrupted
evaluation continues with the missing episodes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rpd.core.device import resolve_device
from rpd.core.files import write_json, write_text
from rpd.envs import registry as envs
from rpd.envs import user_files
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import words
from rpd.evaluation.evaluate import SCHEMA_VERSION, EpisodeRecord, EvalResult, evaluate
from rpd.evaluation.suites import Shard, Suite
from rpd.evaluation.video import GridRecorder
from rpd.policies.identity import check_unchanged
from rpd.policies.loading import load_policy
from rpd.policies.made_for import remarks
from rpd.reporting.run_report import write_evaluation
from rpd.runs.provenance import environment_info
from rpd.runs.reader import read_json
from rpd.students.identity import short
from rpd.students.io.locks import LOCK, locked

LOG = logging.getLogger(__name__)

SETTINGS, EPISODES, VIDEOS, LOGS = "suite.json", "episodes", "videos", "logs"
_EPISODE = TypeAdapter(EpisodeRecord)
TILES = 4
"""Number of episodes in each task's video: rendering is slow, and a suite has many tasks."""


@dataclass(frozen=True)
class SuiteRun:
    """Settings of a suite evaluation; results with equal settings can be merged.

    Attributes:
        suite: the suite.
        policy: policy reference.
        episodes: episodes per task.
        seed: seed of the first episode of each task.
        configs: environment of each task.
        sampler: sampler of a diffusion policy.
        identity: identity of the policy, see `rpd.policies.identity`.
    """

    suite: Suite
    policy: str
    episodes: int
    seed: int
    configs: dict[str, EnvConfig]
    sampler: str | None = None
    identity: str | None = None

    def settings(self) -> dict[str, Any]:
        """Settings that affect results, as JSON values."""
        config = next(iter(self.configs.values()))
        env = config.model_dump(mode="json", exclude_none=True, exclude={"num_envs", "num_workers"})
        more = {"sampler": self.sampler, "imports": user_files.digests()}
        return {
            "suite": self.suite.name, "policy": self.policy, "identity": self.identity, "episodes": self.episodes,
            "seed": self.seed, "env": env,
            **{key: value for key, value in more.items() if value},
        }  # fmt: skip

    @property
    def seeds(self) -> range:
        """Seeds of each task's episodes."""
        return range(self.seed, self.seed + self.episodes)


def run(what: SuiteRun, folder: Path, shard: Shard, device: str, num_threads: int | None, film: bool = False) -> dict[str, Any]:
    """Run the missing episodes of a shard, and summarize all episodes in the folder.

    Args:
        what: the evaluation.
        folder: result folder.
        shard: part of the evaluation to run.
        device: see `resolve_device`.
        num_threads: CPU threads of the simulator.
        film: record a video of each task's first episodes, ``videos/<task>.mp4``.

    Returns:
        The summary, as in eval.json.

    Raises:
        ConfigError: the folder holds another evaluation, or another process runs this shard.
    """
    check(what, folder)
    with locked(lock_of(folder, shard), f"shard {shard.index}/{shard.count} of {folder}"):
        for task, seeds in missing(what, folder, shard).items():
            _play(what, folder, task, shard, seeds, device, num_threads, film)
    return summarize(what, folder)


def lock_of(folder: Path, shard: Shard) -> Path:
    """Lock file of the process that runs a shard."""
    return folder / f".{shard.index}-of-{shard.count}{LOCK}"


def missing(what: SuiteRun, folder: Path, shard: Shard) -> dict[str, list[int]]:
    """Seeds of a shard by task, without those that have an episode in the folder; tasks without any are left out.

    Raises:
        ConfigError: a file is damaged, see `run`.
    """
    shares = shard.share(what.suite, what.seeds).items()
    seeds = {task: sorted(set(share) - {e.seed for e in _episodes(what, folder, task)}) for task, share in shares}
    return {task: left for task, left in seeds.items() if left}


def summarize(what: SuiteRun, folder: Path) -> dict[str, Any]:
    """Write the summary of all episodes in a folder; returns the contents of eval.json."""
    with locked(folder / f".summary{LOCK}", folder, wait=True):  # another shard may end at the same time
        return _summarise(what, folder)


def _play(
    what: SuiteRun, folder: Path, task: str, shard: Shard, missing: list[int], device: str, num_threads: int | None, film: bool
) -> None:
    """Run episodes of a task and save them after every batch; record a video if they start with the task's first."""
    file = folder / EPISODES / f"{_slug(task)}.{shard.index}-of-{shard.count}.jsonl"
    done = _read(file)
    config = what.configs[task].model_copy(update={"num_envs": min(what.configs[task].num_envs, len(missing))})
    with contextlib.closing(envs.make(task, config, resolve_device(device), num_threads)) as env:
        policy = load_policy(what.policy, env, what.sampler)
        check_unchanged(what.policy, what.identity)
        for note in remarks(env.spec, what.policy, but=("task", "max_episode_steps")):
            LOG.warning(f"{task}: {note}")
        _claim(what, folder, shard)  # only now: an evaluation that fails to start leaves no files
        for batch in _batches(missing, config.num_envs):
            filmed = film and batch[0] == what.seed
            path = folder / VIDEOS / f"{_slug(task)}.mp4"
            video = GridRecorder(path, env.spec.control_hz, what.seed, TILES) if filmed else None
            with video or contextlib.nullcontext():
                done += evaluate(env, policy, len(batch), batch[0], video).episodes
            write_text(file, "".join(json.dumps(asdict(e)) + "\n" for e in done))
    solved = sum(e.success_once for e in done)
    LOG.info(f"{task}: {solved}/{len(done)} in this shard")


def _batches(seeds: list[int], size: int) -> Iterator[list[int]]:
    """Group consecutive seeds, at most `size` per batch."""
    batch: list[int] = []
    for seed in seeds:
        if batch and (len(batch) == size or seed != batch[-1] + 1):
            yield batch
            batch = []
        batch.append(seed)
    yield batch


def _summarise(what: SuiteRun, folder: Path) -> dict[str, Any]:
    """Write eval.json, episodes.jsonl and report.html of all episodes in the folder."""
    by_task = {task: _episodes(what, folder, task) for task in what.suite.tasks}
    rows = [
        EvalResult(task, what.policy, tuple(episodes)).to_dict() | {"instruction": envs.task_info(task).instruction}
        for task, episodes in by_task.items()
        if episodes
    ]
    everything = EvalResult(what.suite.name, what.policy, tuple(e for episodes in by_task.values() for e in episodes))
    summary = {
        "schema_version": SCHEMA_VERSION,
        **everything.to_dict(),
        "identity": what.identity,
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


def _claim(what: SuiteRun, folder: Path, shard: Shard) -> None:
    """Write the settings of the folder's evaluation, unless another shard has, and those of this shard."""
    with locked(folder / f".settings{LOCK}", folder, wait=True):
        if not check(what, folder):
            write_json(folder / SETTINGS, what.settings())
        (folder / EPISODES).mkdir(exist_ok=True)
        write_json(folder / EPISODES / f"{shard.index}-of-{shard.count}.json", what.settings())


def check(what: SuiteRun, folder: Path) -> bool:
    """Reject a folder, or a shard in it, of another evaluation; returns whether the folder has settings."""
    if not (folder / SETTINGS).exists():
        if any(not path.name.startswith(".") and path.name != LOGS for path in folder.iterdir()):
            raise ConfigError(f"--out {folder} has something else in it: choose another folder")
        return False
    for file in (folder / SETTINGS, *sorted((folder / EPISODES).glob("*-of-*.json"))):  # shards may have been copied here
        _check_settings(what, file, folder if file.name == SETTINGS else file)
    return True


def _check_settings(what: SuiteRun, file: Path, place: Path) -> None:
    theirs, ours = read_json(file), what.settings()
    _check_policy(theirs, what, place)
    for key in sorted((ours.keys() | theirs.keys()) - {"policy", "identity"}):  # a key that only one side has counts
        then, now = theirs.get(key), ours.get(key)
        if then != now:
            raise ConfigError(f"--out {place} holds another evaluation: its {key} is {words(then)}, not {words(now)}")


def _check_policy(theirs: dict[str, Any], what: SuiteRun, place: Path) -> None:
    """Compare policies by the identity of their files, or by name if a server does not report it."""
    before, now, name = theirs.get("identity"), what.identity, theirs.get("policy")
    if before and now and before == now:
        return
    if name != what.policy:
        raise ConfigError(f"--out {place} holds another evaluation: its policy is {name}, not {what.policy}")
    if before and now:
        was, is_ = f"{name} as it was ({short(before)})", f"as it is now ({short(now)})"
        raise ConfigError(f"--out {place} holds another evaluation: its policy is {was}, not {is_}: choose another --out")
    LOG.warning(f"{name}: its server does not tell whether it is still the policy of {place}")


def _episodes(what: SuiteRun, folder: Path, task: str) -> list[EpisodeRecord]:
    """All episodes of a task in a folder, of every shard, ordered by seed.

    Raises:
        ConfigError: a file is damaged, has episodes of other seeds, or contradicts another.
    """
    found = dict[int, tuple[EpisodeRecord, Path]]()
    for file in sorted((folder / EPISODES).glob(f"{_slug(task)}.*.jsonl")):
        for episode in _read(file):
            if episode.seed not in what.seeds:
                seeds = f"{what.seeds[0]} to {what.seeds[-1]}"
                raise ConfigError(f"{file}: seed {episode.seed} is none of this evaluation's, {seeds}: take the file away")
            other, elsewhere = found.setdefault(episode.seed, (episode, file))
            if (other.success_once, other.length) != (episode.success_once, episode.length):
                raise ConfigError(f"{elsewhere} and {file} differ in the episode of seed {episode.seed}: take one of them away")
    return [found[seed][0] for seed in sorted(found)]


def _read(file: Path) -> list[EpisodeRecord]:
    """Read a shard's episodes of a task; an empty list if there is no file.

    Raises:
        ConfigError: a line is truncated or not an episode; names file and line.
    """
    records = list[EpisodeRecord]()
    for number, line in enumerate(file.read_text(errors="replace").splitlines() if file.exists() else [], 1):
        try:
            records.append(_EPISODE.validate_json(line, strict=True))
        except ValidationError:
            remedy = "copy it again, or delete it, and its episodes are played again"
            raise ConfigError(f"{file}:{number}: damaged, not an episode: {remedy}") from None
    return records


def _slug(task: str) -> str:
    return re.sub(r"[^\w-]+", "-", task)
