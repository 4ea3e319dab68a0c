"""Read a LeRobotDataset v3."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from rpd.datasets.episode import STEP_KEYS, Array, EpisodeMetadata, require
from rpd.datasets.lerobot import layout
from rpd.datasets.lerobot.video_reader import Film
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.specs import EnvSpec
from rpd.students.io.files import check_inside

Row = dict[str, Any]
"""One episode of meta/episodes."""
KEPT_EPISODES = 64
"""Number of episodes whose decoded images stay in memory: seeking a single frame is as slow as decoding an episode."""


class LeRobotFiles:
    """Episodes of a LeRobotDataset v3 on disk, written by any tool; see `rpd.datasets.reader.Source`.

    Args:
        root: folder of the dataset.

    Raises:
        ConfigError: a file is missing or damaged, or the dataset has another version.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._parquet = root, require("pyarrow.parquet")
        self._table = functools.lru_cache(4)(self._read_table)
        self._film, self._images = functools.lru_cache(8)(Film), functools.lru_cache(KEPT_EPISODES)(self._decode)
        try:
            self._info = json.loads(check_inside(root, root / layout.INFO).read_text())
            if (version := self._info["codebase_version"]) != layout.VERSION:
                raise ConfigError(f"{root} is a LeRobot dataset {version}, and rpd reads {layout.VERSION}: convert it")
            self._features = _keys(self._info["features"])
            path = check_inside(root, root / layout.RPD)
            specs = json.loads(path.read_text()) if path.exists() else {}
            self.specs = {task: EnvSpec.model_validate(spec) for task, spec in specs.items()}
            tables = [self._table(check_inside(root, path)) for path in sorted((root / "meta/episodes").glob("*/*.parquet"))]
            self._rows: list[Row] = [row for table in tables for row in table.to_pylist()]
            self._starts = _starts(self._rows)
            self.episodes = [_describe(row) for row in self._rows]
            for row in self._rows:
                self._check(row)
        except OSError as error:
            raise ConfigError(f"{error.filename or root}: cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ConfigError(f"{root} is not a whole LeRobot dataset: {' '.join(repr(error).split())}") from None

    def keys(self, episode: int) -> list[str]:
        """See `rpd.datasets.reader.Source`."""
        return list(self._features)

    def state_names(self, episode: int) -> tuple[str, ...]:
        """See `rpd.datasets.reader.Source`."""
        feature = self._info["features"].get(layout.FEATURES["state"], {"names": [], "shape": [0]})
        names = feature["names"]
        if isinstance(names, dict):  # of motors, grouped
            names = [name for group in names.values() for name in group]
        return tuple(map(str, names or range(feature["shape"][0])))

    def control_hz(self, episode: int) -> float:
        """See `rpd.datasets.reader.Source`."""
        return float(self._info["fps"])

    def where(self, episode: int) -> str:
        """See `rpd.datasets.reader.Source`."""
        row = self._rows[episode]
        return f"{self._data_path(row)}, episode {row.get('episode_index', episode)}"

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """See `rpd.datasets.reader.Source`."""
        if key not in self._features:
            raise unknown_name(f"part of {self._root}", key, self._features)
        feature = self._features[key]
        if key.startswith("image."):
            rows = self._images(episode, feature)
        elif key == "terminated":  # done, but not truncated
            rows = self._column(episode, feature)
            if "truncated" in self._features:
                rows = rows & ~self._column(episode, self._features["truncated"])
        else:
            rows = self._column(episode, feature)
        rows = rows.astype(STEP_KEYS.get(key, rows.dtype), copy=False)
        return rows if steps is None else rows[list(steps)]

    def _check(self, row: Row) -> None:
        """Check that the files of an episode exist."""
        names = [self._data_path(row), *(self._video_path(row, f) for f in self._features.values() if self._is_video(f))]
        for path in names:
            if not path.is_file():
                raise ValueError(f"{path} is missing")

    def _read_table(self, path: Path) -> Any:
        """Read a parquet file, verifying the checksums of its pages, if any."""
        try:
            return self._parquet.read_table(path, page_checksum_verification=True)
        except (OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None

    def _column(self, episode: int, feature: str) -> Array:
        """One feature of one episode, [T] or [T, D]."""
        row = self._rows[episode]
        first = row["dataset_from_index"] - self._starts[row["data/chunk_index"], row["data/file_index"]]
        values = self._table(self._data_path(row)).column(feature).slice(first, row["length"]).combine_chunks()
        if hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
        return values.to_numpy(zero_copy_only=False)

    def _decode(self, episode: int, feature: str) -> Array:
        """The images of one episode [T, H, W, 3]."""
        row = self._rows[episode]
        if self._is_video(feature):
            first = round(row[f"videos/{feature}/from_timestamp"] * self._info["fps"])
            return self._film(self._video_path(row, feature), self._info["fps"]).read(first, row["length"])
        return np.stack(
            [
                np.asarray(Image.open(io.BytesIO(v["bytes"]), formats=("PNG", "JPEG")).convert("RGB"))
                for v in self._column(episode, feature)
            ]
        )

    def _is_video(self, feature: str) -> bool:
        return bool(self._info["features"][feature]["dtype"] == "video")

    def _data_path(self, row: Row) -> Path:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        return check_inside(self._root, self._root / self._info["data_path"].format(**place))

    def _video_path(self, row: Row, feature: str) -> Path:
        place = {name: row[f"videos/{feature}/{name}"] for name in ("chunk_index", "file_index")}
        return check_inside(self._root, self._root / self._info["video_path"].format(video_key=feature, **place))


def _picture(data: bytes) -> Array:
    """Decode an image [H, W, 3] as PNG or JPEG, LeRobot's formats; decoders of other formats may run external programs."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).convert("RGB"))


def _keys(features: dict[str, Any]) -> dict[str, str]:
    """LeRobot feature of each key."""
    keys = {}
    for name, feature in features.items():
        if name not in layout.INDICES and feature["dtype"] not in ("string", "language") and name != layout.DONE:
            keys[layout.key_name(name, feature["dtype"] in ("video", "image"))] = name
    keys.setdefault("action", keys["label"])
    if layout.DONE in features:
        keys["terminated"] = layout.DONE
    return keys


def _starts(rows: list[Row]) -> dict[tuple[int, int], int]:
    """Index of the first row in each data file."""
    starts: dict[tuple[int, int], int] = {}
    for row in rows:
        place = (row["data/chunk_index"], row["data/file_index"])
        starts[place] = min(starts.get(place, row["dataset_from_index"]), row["dataset_from_index"])
    return starts


def _describe(row: Row) -> EpisodeMetadata:
    return EpisodeMetadata(
        row.get("env_task") or "", row["tasks"][0], row.get("episode_seed"), row.get("success"), row["length"]
    )
