"""A folder of demonstrations that grows by whole rounds.

demos/x/dataset.json                              settings, and the complete rounds; written last
        trajectory.<task>.<round>.h5, .json       episodes of one round
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rpd.core.files import write_json
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.runs.provenance import environment_info
from rpd.students.io.files import file_digest, mismatch
from rpd.students.io.outputs import claimed

INDEX, FORMAT, VERSION = "dataset.json", "rpd-demonstrations", 2
SEAL = "sha256"
"""Key of the index for the digest of all other keys."""


class Round(BaseModel):
    """Results of one round of episodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None
    """Trajectory file, None if no episode was kept."""
    digests: dict[str, dict[str, int | str]] = {}
    """Sizes and SHA-256 of the trajectory file and its JSON file, see `rpd.students.io.files.digest`."""
    episodes: int
    """Number of kept episodes."""
    steps: int
    """Control steps of the kept episodes."""
    attempts: int
    """Number of episodes played."""
    successes: int
    """Number of episodes solved."""
    cut: bool
    """Whether the round ended early because enough episodes were recorded."""


class Recording:
    """A folder of demonstrations during recording.

    Attributes:
        settings: options of the recording as JSON values, for resuming it.
        rounds: complete rounds, by task.
        identity: identity of the recorded policy, see `rpd.policies.identity`.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], rounds: dict[str, list[Round]], identity: str | None = None
    ) -> None:
        self.folder, self.settings, self.rounds, self.identity = folder, settings, rounds, identity
        self._about = environment_info()

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Open a folder to continue recording.

        Raises:
            ConfigError: the folder holds no demonstrations of `rpd data collect`.
        """
        index = read_index(folder)
        for path in folder.glob(".*.tmp"):  # left by a killed process
            path.unlink()
        return cls(folder, index["settings"], index["rounds"], index.get("identity"))

    def kept(self, task: str) -> int:
        """Number of recorded episodes of a task."""
        return sum(r.episodes for r in self.rounds.get(task, []))

    def next_round(self, task: str, wanted: int) -> int | None:
        """Number of the next round of a task, None if there are `wanted` episodes.

        A round that ended early is repeated when more episodes are wanted: the folder then equals one recorded with the larger
        number from the start.
        """
        rounds = self.rounds.get(task, [])
        if self.kept(task) >= wanted:
            return None
        return len(rounds) - 1 if rounds and rounds[-1].cut else len(rounds)

    def add(self, task: str, number: int, result: Round) -> None:
        """Add a complete round, whose file is on disk."""
        self.rounds[task] = [*self.rounds.get(task, [])[:number], result]
        self.save()

    def save(self) -> None:
        """Write the index; the folder is created if missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rounds = {task: [r.model_dump() for r in rounds] for task, rounds in self.rounds.items()}
        index = {"format": FORMAT, "version": VERSION, "settings": self.settings, "identity": self.identity}
        index |= {"rounds": rounds, **self._about}
        write_json(self.folder / INDEX, {**index, SEAL: _seal(index)})


def create_dataset_dir(folder: Path) -> AbstractContextManager[Path]:
    """Create and lock a folder for new demonstrations, see `rpd.students.io.outputs.claimed`.

    Raises:
        ConfigError: the folder is not empty; names its content and the remedy.
    """
    if (folder / INDEX).exists():
        return claimed(folder, f"{folder} has demonstrations already: choose another --out, or use --resume {folder}")
    return claimed(folder, f"{folder} has something else in it: choose another --out")


def read_index(folder: Path) -> dict[str, Any]:
    """Return ``dataset.json`` of a folder, with its rounds as `Round`.

    Raises:
        ConfigError: the file is missing, damaged, or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ConfigError(f"{folder} is not a folder of demonstrations: it has no {INDEX}")
    try:
        index = json.loads(path.read_text())
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise ConfigError(f"{path}: is {index['format']} {index['version']}, and this rpd reads {FORMAT} {VERSION}")
        if index.pop(SEAL) != _seal(index):
            raise ConfigError(f"{path}: altered: its SHA-256 differs from the one recorded when it was written")
        rounds = {task: [Round.model_validate(r) for r in rounds] for task, rounds in index["rounds"].items()}
        user_files.record(index.get("imports", ()), str(folder))
        return {**index, "settings": dict(index["settings"]), "rounds": rounds}
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None


def verify(path: Path) -> None:
    """Check a trajectory file and its JSON file against the index of the folder; files of other tools have no index.

    Raises:
        ConfigError: a file is missing, truncated or altered, or not listed in the index.
    """
    if not (path.parent / INDEX).is_file():
        return
    rounds = read_index(path.parent)["rounds"].values()
    expected = next((r.digests for results in rounds for r in results if r.file == path.name), None)
    if expected is None:
        raise ConfigError(f"{path}: is not listed in {path.parent / INDEX}: not recorded to its end, or not recorded there")
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise ConfigError(f"{file}: is missing")
        if problem := mismatch(file_digest(file), expected.get(file.name)):
            raise ConfigError(f"{file}: {problem}")


def _seal(index: dict[str, Any]) -> str:
    """SHA-256 of an index without `SEAL`."""
    text = json.dumps(index, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
