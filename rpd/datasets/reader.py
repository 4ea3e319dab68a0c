"""Read demonstrations of `rpd data collect`, ManiSkill and LeRobot through one interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rpd.datasets.dataset_dir import INDEX
from rpd.datasets.episode import STEP_KEYS, Array, Episode, EpisodeMetadata
from rpd.datasets.lerobot.layout import INFO
from rpd.datasets.lerobot.reader import LeRobotFiles
from rpd.datasets.trajectories import TrajectoryFiles, recorded_files
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.specs import EnvSpec
from rpd.export.actors import invalid_entries
from rpd.students.io.files import check_inside

LOG = logging.getLogger(__name__)


class Source(Protocol):
    """Episodes in files of one format."""

    episodes: list[EpisodeMetadata]
    specs: dict[str, EnvSpec]
    """By task, if the files contain them."""

    def keys(self, episode: int) -> list[str]:
        """Readable keys of an episode: action and label, optional others of `STEP_KEYS`, and keys of observations."""

    def state_names(self, episode: int) -> tuple[str, ...]:
        """Names of the entries of an episode's ``state``."""

    def control_hz(self, episode: int) -> float:
        """Control steps per second."""

    def where(self, episode: int) -> str:
        """File and name of an episode in it, for messages."""

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """Read a key [T, ...] at some steps; default: all, and for observations the one after the last step, if stored."""


class Demos:
    """Episodes that are read on access.

    Attributes:
        episodes: metadata of each episode.
        specs: environment specs by task, if the files contain them; they define the meaning of actions.
        keys: keys that every episode has, see `Episode`.
        state_names: entries of ``state`` that all episodes have; only these are read. Tasks differ: some have a goal.
    """

    def __init__(self, members: Sequence[tuple[Source, int]], where: str) -> None:
        """Collect episodes of `members`, each a source and the number of an episode in it.

        Args:
            members: in order.
            where: description of the origin, for messages.

        Raises:
            ConfigError: `members` is empty.
        """
        if not members:
            raise ConfigError(f"{where}: no episodes")
        self._members, self._where = list(members), where
        self.episodes = [source.episodes[i] for source, i in members]
        specs = {task: spec for source, _ in members for task, spec in source.specs.items()}
        self.specs = {task: specs[task] for task in self.tasks if task in specs}
        common, names = (list(dict.fromkeys(of(0))) for of in (self._keys, self._names))
        for keys in {self._keys(i) for i in range(len(members))}:
            common = [key for key in common if key in keys]
        for own in {self._names(i) for i in range(len(members))}:
            names = [name for name in names if name in own]
        self.keys, self.state_names = common, tuple(names)

    @property
    def tasks(self) -> list[str]:
        """Tasks of the episodes, in order of appearance."""
        return list(dict.fromkeys(episode.task for episode in self.episodes))

    @property
    def cameras(self) -> list[str]:
        """Keys of the images that every episode has."""
        return [key for key in self.keys if key.startswith("image.")]

    @property
    def num_steps(self) -> int:
        """Total number of control steps."""
        return sum(episode.length for episode in self.episodes)

    def select(self, tasks: Sequence[str] | None = None, success: bool | None = None) -> Demos:
        """Return the episodes of some tasks, or only those that ended with or without success.

        Raises:
            ConfigError: unknown task, or no episode is left.
        """
        for task in tasks or ():
            if task not in self.tasks:
                raise unknown_name(f"task in {self._where}", task, self.tasks)
        wanted = [
            (tasks is None or episode.task in tasks) and (success is None or episode.success == success)
            for episode in self.episodes
        ]
        return Demos([member for member, keep in zip(self._members, wanted, strict=True) if keep], self._where)

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """Read one key of one episode [T, ...], at some steps or all; see `Source.read`.

        Raises:
            ConfigError: an episode lacks the key, or values are NaN, Inf or implausibly large; names file, episode and
                step.
        """
        if key not in self.keys:
            raise unknown_name(f"part of the demonstrations in {self._where}", key, self.keys)
        source, number = self._members[episode]
        rows = source.read(number, key, steps)
        own = self._names(episode)
        _check(rows, steps, f"{source.where(number)}: {key}", own if key == "state" else ())
        if key == "state" and own != self.state_names:
            rows = rows[:, [own.index(name) for name in self.state_names]]
        return rows

    def demonstrated(self, episode: int) -> Array:
        """Steps [T] that are demonstrations: all, or of a policy under supervision the corrections of its operator."""
        if self.is_supervised(episode):
            source, number = self._members[episode]
            return source.read(number, "intervention")
        return np.ones(self.episodes[episode].length, dtype=bool)

    def is_supervised(self, episode: int) -> bool:
        """Whether an episode is of a policy under supervision: only the corrections of its operator are demonstrations."""
        source, number = self._members[episode]
        return "intervention" in source.keys(number)

    def control_hz(self, episode: int) -> float:
        """Control steps per second of one episode."""
        source, number = self._members[episode]
        return source.control_hz(number)

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, episode: int) -> Episode:
        parts = {key: self.read(episode, key) for key in self.keys}
        steps = {key: parts.pop(key) for key in STEP_KEYS if key in parts}
        return Episode(self.episodes[episode], parts, steps)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def _keys(self, episode: int) -> tuple[str, ...]:
        source, number = self._members[episode]
        return tuple(source.keys(number))

    def _names(self, episode: int) -> tuple[str, ...]:
        source, number = self._members[episode]
        return source.state_names(number)


def _check(rows: Array, steps: Sequence[int] | None, what: str, names: Sequence[str]) -> None:
    """Reject rows [T, ...] of the given steps that are not finite; `names` are the names of their entries."""
    if rows.dtype.kind != "f" or not len(rows) or (bad := invalid_entries(rows.reshape(len(rows), -1), names)) is None:
        return
    first = next(t for t, row in enumerate(rows) if invalid_entries(row.reshape(1, -1)))
    raise ConfigError(f"{what} has invalid numbers, first at step {first if steps is None else steps[first]}: {bad}")


def open_demos(*paths: Path | str, understand: bool = False, task: str | None = None) -> Demos:
    """Open demonstrations; several paths are concatenated.

    Args:
        paths: a folder of `rpd data collect`, a LeRobotDataset v3, a trajectory file of ManiSkill or a folder of such files,
            or a recording of `rpd deploy`.
        understand: build the tasks of ManiSkill's own files, which lack specs, to obtain them (seconds).
        task: name of a task in training; ManiSkill's files of it are read under that name, see `TrajectoryFiles.name_as`.

    Raises:
        ConfigError: a path has none of these formats, or is damaged; names the file.
    """
    sources = [_source(Path(path)) for path in paths]
    for source in sources:
        if task is not None and isinstance(source, TrajectoryFiles):
            source.name_as(task)
        if understand and isinstance(source, TrajectoryFiles):
            source.understand()
    return Demos([(s, i) for s in sources for i in range(len(s.episodes))], ", ".join(map(str, paths)))


def _source(path: Path) -> Source:
    if not path.exists():
        raise ConfigError(f"{path} does not exist: expected a folder of demonstrations")
    if path.suffix == ".rpdlog":
        from rpd.datasets.deploy_log.reader import Record

        recorded = Record(path)
        if recorded.head.get("dry_run"):
            raise ConfigError(f"{path} is of a dry run, in which no action was executed: it has no demonstrations")
        for line in recorded.left_out:
            LOG.warning("%s: left out: %s", path, line)
        return recorded
    if (path / INDEX).is_file():
        return TrajectoryFiles(recorded_files(path))
    if (path / INFO).is_file():
        return LeRobotFiles(path)
    files = [path] if path.suffix == ".h5" else [check_inside(path, file) for file in sorted(path.rglob("*.h5"))]
    if files:
        return TrajectoryFiles(files)
    raise ConfigError(f"{path} holds no demonstrations: neither {INDEX}, nor LeRobot's {INFO}, nor trajectory files (*.h5)")
