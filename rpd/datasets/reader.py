"""Demonstrations, read back: one interface to what `rpd collect`, ManiSkill and LeRobot write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from envs.errors import ConfigError, unknown_name
from envs.specs import EnvSpec
from rpd.demos.episode import STEP_KEYS, Array, Episode, EpisodeInfo
from rpd.demos.lerobot.layout import INFO
from rpd.demos.lerobot.reader import LeRobotFiles
from rpd.demos.recording import INDEX
from rpd.demos.trajectories import TrajectoryFiles, recorded_files


class Source(Protocol):
    """Files of one kind that hold episodes."""

    episodes: list[EpisodeInfo]
    specs: dict[str, EnvSpec]
    """By task, where the files hold them."""

    def keys(self, episode: int) -> list[str]:
        """What can be read of an episode: of `STEP_KEYS` at least action and label, and keys of observations."""

    def state_names(self, episode: int) -> tuple[str, ...]:
        """One name per entry of an episode's ``state``."""

    def control_hz(self, episode: int) -> float:
        """Control steps per second."""

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """Read a key [T, ...] at some steps; by default at all, observations also after the last one where they are kept."""


class Demos:
    """Episodes, read when they are asked for.

    Attributes:
        episodes: what is known of each without reading it.
        specs: the environments' specs by task, where the files hold them: they say what actions mean.
        keys: what can be read of every episode, see `Episode`.
        state_names: the entries of ``state`` that all episodes have, and that are read. Tasks differ: some have a goal.
    """

    def __init__(self, members: Sequence[tuple[Source, int]], where: str) -> None:
        """Refer to `members`, each a source and the number of an episode in it.

        Args:
            members: in order.
            where: they are from, for messages.

        Raises:
            ConfigError: there are none.
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
        """Every task that there are episodes of, in order of appearance."""
        return list(dict.fromkeys(episode.task for episode in self.episodes))

    @property
    def cameras(self) -> list[str]:
        """Keys of the images that every episode has."""
        return [key for key in self.keys if key.startswith("image.")]

    @property
    def num_steps(self) -> int:
        """Control steps in all."""
        return sum(episode.length for episode in self.episodes)

    def select(self, tasks: Sequence[str] | None = None, success: bool | None = None) -> Demos:
        """Return the episodes of some tasks, or those that ended in success, or not.

        Raises:
            ConfigError: there is no such task, or nothing is left.
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
        """Read one key of one episode [T, ...], at some steps or at all; see `Source.read`.

        Raises:
            ConfigError: not every episode has it.
        """
        if key not in self.keys:
            raise unknown_name(f"part of the demonstrations in {self._where}", key, self.keys)
        source, number = self._members[episode]
        rows = source.read(number, key, steps)
        own = self._names(episode)
        if key == "state" and own != self.state_names:
            rows = rows[:, [own.index(name) for name in self.state_names]]
        return rows

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


def open_demos(*paths: Path | str, understand: bool = False) -> Demos:
    """Open demonstrations; several paths are put together.

    Args:
        paths: a folder that `rpd collect` wrote, a LeRobotDataset v3, a trajectory file of ManiSkill or a folder of them, or a
            record of `rpd deploy`.
        understand: find out what ManiSkill's own files mean, which do not say, by building their tasks (seconds).

    Raises:
        ConfigError: one of them is none of these, or damaged; names the file.
    """
    sources = [_source(Path(path)) for path in paths]
    for source in sources:
        if understand and isinstance(source, TrajectoryFiles):
            source.understand()
    return Demos([(s, i) for s in sources for i in range(len(s.episodes))], ", ".join(map(str, paths)))


def _source(path: Path) -> Source:
    if not path.exists():
        raise ConfigError(f"{path} does not exist: expected a folder of demonstrations")
    if path.suffix == ".rpdlog":
        from rpd.deploy.recorded import Record

        return Record(path)
    if (path / INDEX).is_file():
        return TrajectoryFiles(recorded_files(path))
    if (path / INFO).is_file():
        return LeRobotFiles(path)
    files = [path] if path.suffix == ".h5" else sorted(path.rglob("*.h5"))
    if files:
        return TrajectoryFiles(files)
    raise ConfigError(f"{path} holds no demonstrations: neither {INDEX}, nor LeRobot's {INFO}, nor trajectory files (*.h5)")
