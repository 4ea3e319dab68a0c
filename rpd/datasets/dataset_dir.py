"""A folder of demonstrations that grows by whole rounds.

demos/x/dataset.json                              settings, and the rounds that are complete; written last
        trajectory.<task>.<round>.h5, .json       the episodes of one round
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from envs.errors import ConfigError
from rpd.atomic import write_json
from rpd.machine import environment_info

INDEX, FORMAT, VERSION = "dataset.json", "rpd-demonstrations", 1


class Round(BaseModel):
    """What came of one round of episodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None
    """Trajectory file with what was kept, None where that was nothing."""
    size: int
    """Bytes of it."""
    episodes: int
    """Episodes that were kept."""
    steps: int
    """Control steps in them."""
    attempts: int
    """Episodes that were played."""
    successes: int
    """Episodes that were solved."""
    cut: bool
    """More could have been kept, but it had enough."""


class Recording:
    """A folder that is being recorded into.

    Attributes:
        settings: how; as JSON values, to continue with.
        rounds: what is complete, by task.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], rounds: dict[str, list[Round]]) -> None:
        self.folder, self.settings, self.rounds = folder, settings, rounds
        self._about = environment_info()

    def check_new(self) -> None:
        """Refuse to start in a folder that has something in it.

        Raises:
            ConfigError: what it has, and what to do.
        """
        folder = self.folder
        if (folder / INDEX).exists():
            raise ConfigError(f"{folder} has demonstrations already: choose another --out, or use --resume {folder}")
        if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
            raise ConfigError(f"{folder} has something else in it: choose another --out")

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Continue a folder.

        Raises:
            ConfigError: there are no demonstrations of ours in it.
        """
        index = read_index(folder)
        for path in folder.glob(".*.tmp"):  # of a process that was killed
            path.unlink()
        return cls(folder, index["settings"], index["rounds"])

    def kept(self, task: str) -> int:
        """Episodes of a task."""
        return sum(r.episodes for r in self.rounds.get(task, []))

    def next_round(self, task: str, wanted: int) -> int | None:
        """Number of the round to play until there are `wanted` episodes of a task, None where there are.

        A round that was cut short because there were enough episodes is played again once more are wanted: the folder
        becomes what it would have been, had as many been wanted from the start.
        """
        rounds = self.rounds.get(task, [])
        if self.kept(task) >= wanted:
            return None
        return len(rounds) - 1 if rounds and rounds[-1].cut else len(rounds)

    def add(self, task: str, number: int, result: Round) -> None:
        """Enter a complete round, whose file is on the disk."""
        self.rounds[task] = [*self.rounds.get(task, [])[:number], result]
        self.save()

    def save(self) -> None:
        """Write the index; the folder is made where it is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rounds = {task: [r.model_dump() for r in rounds] for task, rounds in self.rounds.items()}
        index = {"format": FORMAT, "version": VERSION, "settings": self.settings, "rounds": rounds, **self._about}
        write_json(self.folder / INDEX, index)


def read_index(folder: Path) -> dict[str, Any]:
    """Return ``dataset.json`` of a folder, its rounds as `Round`.

    Raises:
        ConfigError: it is missing, damaged, or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ConfigError(f"{folder} is not a folder of demonstrations: it has no {INDEX}")
    try:
        index = json.loads(path.read_text())
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise ConfigError(f"{path}: is {index['format']} {index['version']}, and this rpd reads {FORMAT} {VERSION}")
        rounds = {task: [Round.model_validate(r) for r in rounds] for task, rounds in index["rounds"].items()}
        return {**index, "settings": dict(index["settings"]), "rounds": rounds}
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None
