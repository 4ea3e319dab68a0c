"""Read trajectory files in ManiSkill's layout: those of `rpd data collect`, and those of ManiSkill's RecordEpisode."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rpd.datasets import maniskill
from rpd.datasets.dataset_dir import read_index, verify
from rpd.datasets.episode import STEP_KEYS, Array, EpisodeMetadata, require
from rpd.datasets.hdf5 import dataset, open_file
from rpd.datasets.writer import STEPS
from rpd.envs import user_files
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.maniskill.tasks import instruction, same
from rpd.envs.specs import EnvSpec
from rpd.students.io.files import check_inside

OPEN_FILES = 64
"""Maximum number of open files."""

MANISKILL_HZ = 20.0
"""ManiSkill's default control rate, assumed for its own files, which do not store it."""

Layout = dict[str, list[str]]
"""Datasets of each key in an episode's group; several are concatenated."""


class TrajectoryFiles:
    """Episodes of trajectory files; see `rpd.datasets.reader.Source`.

    ManiSkill's observations other than images, e.g. ``obs/agent/qpos`` and ``obs/extra/tcp_pose``, are concatenated into
    ``state`` in the order of the file, as its FlattenRGBDObservationWrapper does. Depth and segmentation are ignored.

    Args:
        paths: ``*.h5``, each with a ``*.json`` of the same name.

    Raises:
        ConfigError: a file is missing, damaged, or has another layout; names it.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        require("h5py")
        self._open = functools.lru_cache(OPEN_FILES)(open_file)
        self._paths, self._firsts = list(paths), [0]
        self._names: list[str] = []
        self._layouts: list[Layout] = []  # by file, as are:
        self._states: list[tuple[str, ...]] = []
        self._metas: list[dict[str, Any]] = []
        self.episodes: list[EpisodeMetadata] = []
        self.specs: dict[str, EnvSpec] = {}
        for path in paths:
            try:
                self._index(path)
            except OSError as error:
                name = error.filename or path
                raise ConfigError(f"{name}: cannot be read: {error.strerror or ' '.join(str(error).split())}") from None
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
                raise ConfigError(f"{path} and its .json are not a trajectory file as ManiSkill's: {what}") from None
            self._firsts.append(len(self.episodes))

    def name_as(self, task: str) -> None:
        """Rename a ManiSkill task in these files to its name in training; files store its id without its module."""
        self.episodes = [replace(episode, task=task) if same(episode.task, task) else episode for episode in self.episodes]
        self.specs = {
            task if same(name, task) else name: spec.model_copy(update={"task": task}) if same(name, task) else spec
            for name, spec in self.specs.items()
        }

    def understand(self) -> None:
        """Obtain the specs of ManiSkill's own files by building the recorded tasks.

        Raises:
            ConfigError: a task cannot be built, or actions do not match it; see `rpd.datasets.maniskill`.
        """
        for number, (path, meta, layout) in enumerate(zip(self._paths, self._metas, self._layouts, strict=True)):
            if "env_spec" in meta["env_info"] or not meta["episodes"]:
                continue
            first, last = self._firsts[number], self._firsts[number + 1]
            built = maniskill.recorded_in(self.episodes[first].task, meta)
            file = self._open(path)
            for episode in range(first, last):
                maniskill.check_actions(dataset(file, f"{self._names[episode]}/actions")[:], built, str(path))
            parts: list[str] = []
            for part in layout.get("state", []):
                data = dataset(file, f"{self._names[first]}/{part}")
                parts += maniskill.entry_names(built, part, math.prod(data.shape[1:])) or _entry_names(part, data)
            shapes = {key: self.read(first, key, [0]).shape[1:] for key in layout if key.startswith("image.")}
            if parts:
                shapes["state"] = (len(parts),)
            spec = maniskill.described(built, tuple(parts), shapes)
            if self.specs.setdefault(spec.task, spec).action != spec.action:
                raise ConfigError(
                    f"{path}: actions differ from those in the other files of {spec.task}: read the files separately"
                )
            self._states[number] = tuple(parts)

    def keys(self, episode: int) -> list[str]:
        """See `rpd.datasets.reader.Source`."""
        return list(self._layouts[self._file(episode)])

    def state_names(self, episode: int) -> tuple[str, ...]:
        """See `rpd.datasets.reader.Source`."""
        return self._states[self._file(episode)]

    def control_hz(self, episode: int) -> float:
        """See `rpd.datasets.reader.Source`."""
        spec = self.specs.get(self.episodes[episode].task)
        return MANISKILL_HZ if spec is None else spec.control_hz

    def where(self, episode: int) -> str:
        """See `rpd.datasets.reader.Source`."""
        return f"{self._paths[self._file(episode)]}, {self._names[episode]}"

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """See `rpd.datasets.reader.Source`."""
        number = self._file(episode)
        layout, file = self._layouts[number], self._open(self._paths[number])
        if key not in layout:
            raise unknown_name(f"part of {self._paths[number]}", key, layout)
        sets = [dataset(file, f"{self._names[episode]}/{path}") for path in layout[key]]
        parts = [data[:] if steps is None else np.stack([data[t] for t in steps]) for data in sets]
        if len(parts) > 1:
            parts = [np.concatenate([part.reshape(len(part), -1).astype(np.float32) for part in parts], axis=1)]
        return parts[0].astype(STEP_KEYS.get(key, parts[0].dtype), copy=False)

    def _index(self, path: Path) -> None:
        """Index the episodes of one file."""
        verify(path)
        meta = json.loads(path.with_suffix(".json").read_text())
        file, info = self._open(path), meta["env_info"]
        task = f"maniskill/{info['env_id']}"
        if "env_spec" in info:
            spec = EnvSpec.model_validate(info["env_spec"])
            task = spec.task
            self.specs[task] = spec
            user_files.record(spec.imports, str(path))
        for entry in meta["episodes"]:
            name = f"traj_{entry['episode_id']}"
            if name not in file:
                raise ValueError(f"there is no {name}")
            seed, success = entry.get("episode_seed", entry.get("reset_kwargs", {}).get("seed")), entry.get("success")
            self.episodes.append(
                EpisodeMetadata(
                    task,
                    entry.get("instruction") or instruction(info["env_id"]),
                    None if seed is None else int(np.ravel(seed)[0]),
                    None if success is None else bool(success),
                    int(entry["elapsed_steps"]),
                )
            )
            self._names.append(name)
        layout = _layout(file[self._names[-1]]) if meta["episodes"] else {}
        self._layouts.append(layout)
        self._metas.append(meta)
        named = (_entry_names(path, file[self._names[-1]][path]) for path in layout.get("state", []))
        self._states.append(self.specs[task].state_names if task in self.specs else tuple(itertools.chain(*named)))

    def _file(self, episode: int) -> int:
        return bisect.bisect_right(self._firsts, episode) - 1


def recorded_files(folder: Path) -> list[Path]:
    """Return the trajectory files of a folder of `rpd data collect`, in recording order.

    Raises:
        ConfigError: the folder's index is damaged, or names a file outside the folder.
    """
    rounds = read_index(folder)["rounds"].values()
    return [check_inside(folder, folder / r.file) for results in rounds for r in results if r.file is not None]


def _layout(group: Any) -> Layout:
    """Find the datasets of each key in an episode's group."""
    names = {**STEPS, "label": "labels" if "labels" in group else "actions"}
    layout: Layout = {key: [names.get(key, key)] for key in STEP_KEYS if names.get(key, key) in group}
    if not hasattr(group["actions"], "shape"):
        raise ValueError("its actions are those of several agents")
    state: list[str] = []
    for path in _leaves(group, "obs"):
        parts = path.split("/")
        if parts[1:2] == ["sensor_data"]:
            if parts[-1] == "rgb":
                layout[f"image.{'.'.join(parts[2:-1])}"] = [path]
        elif parts[1:2] == ["privileged"]:
            layout["privileged"] = [path]
        elif parts[1:2] != ["sensor_param"]:
            state.append(path)
    return layout | ({"state": state} if state else {})


def _leaves(group: Any, name: str) -> Iterator[str]:
    """Paths of the datasets below `name`, in the order of the file."""
    if name not in group:
        return
    if hasattr(group[name], "shape"):
        yield name
    else:
        for child in group[name]:
            yield from _leaves(group, f"{name}/{child}")


def _entry_names(path: str, values: Any) -> list[str]:
    """Names of the entries of one dataset [T, ...], e.g. ``agent.qpos.0``."""
    stem, width = path.removeprefix("obs/").replace("/", "."), math.prod(values.shape[1:])
    return [stem] if width == 1 else [f"{stem}.{i}" for i in range(width)]
