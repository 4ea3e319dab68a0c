"""Export demonstrations as a LeRobotDataset v3."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rpd.core.files import write_json
from rpd.datasets.episode import Array, Episode, require
from rpd.datasets.lerobot import layout, stats
from rpd.datasets.lerobot.features import features, frame_rate
from rpd.datasets.lerobot.files import Columns, Table, Video
from rpd.datasets.reader import Demos
from rpd.students.io.outputs import staged


def export(demos: Demos, folder: Path) -> None:
    """Write a dataset; the folder appears when it is complete.

    A row is a control step: its observation and its label. The observation after the last action has no row in this format
    and is omitted.

    Args:
        demos: demonstrations; all tasks must have the same cameras, actions and control rate. Only common state entries are
            written.
        folder: destination; must not exist.

    Raises:
        ConfigError: the folder exists, or the tasks differ.
    """
    require("pyarrow.parquet")
    with (
        staged(folder, f"{folder} exists already: choose another --out") as root,
        contextlib.closing(_Exporter(demos, root)) as exporter,
    ):
        for number, episode in enumerate(demos):
            exporter.add(number, episode)
        exporter.finish()
        for path in (p for p in root.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())


class _Exporter:
    """Writes a dataset into `root`."""

    def __init__(self, demos: Demos, root: Path) -> None:
        self.demos, self.root = demos, root
        self.fps = frame_rate(demos)
        self.features = features(demos, self.fps)
        self.data = Table(root)
        self.videos = {camera: Video(root, layout.feature_name(camera), self.fps) for camera in demos.cameras}
        self.tasks: dict[str, int] = {}
        self.episodes: list[dict[str, Any]] = []
        self.values: dict[str, list[Array]] = defaultdict(list)
        self.pixels = {camera: np.zeros((3, 256), np.int64) for camera in demos.cameras}

    def add(self, number: int, episode: Episode) -> None:
        """Append an episode."""
        info = episode.info
        columns = self._columns(number, episode)
        entry = {"episode_index": number, "tasks": [info.instruction], "length": info.length}
        entry |= {"env_task": info.task, "episode_seed": info.seed, "success": info.success} | self.data.add(columns)
        for name, values in columns.items():
            self.values[name].append(values)
            entry |= _flat(name, stats.vector_stats(values))
        for camera, video in self.videos.items():
            frames = episode.obs[camera][: info.length]
            counts = stats.histogram(frames)
            self.pixels[camera] += counts
            entry |= video.add(frames) | _flat(video.feature, stats.image_stats(counts, info.length))
        self.episodes.append({**entry, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})

    def finish(self) -> None:
        """Write the metadata."""
        self.close()
        pa, parquet = require("pyarrow"), require("pyarrow.parquet")
        path = self.root / layout.EPISODES.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(self.episodes), path, write_page_checksum=True)
        parquet.write_table(_task_table(list(self.tasks)), self.root / layout.TASKS)
        overall = {name: stats.vector_stats(np.concatenate(values)) for name, values in self.values.items()}
        for camera, counts in self.pixels.items():
            overall[layout.feature_name(camera)] = stats.image_stats(counts, self.data.rows)
        write_json(self.root / layout.STATS, overall)
        write_json(self.root / layout.RPD, {task: s.model_dump(mode="json") for task, s in self.demos.specs.items()})
        robots = {spec.embodiment.name for spec in self.demos.specs.values()}
        write_json(
            self.root / layout.INFO,
            {
                "codebase_version": layout.VERSION,
                "robot_type": robots.pop() if len(robots) == 1 else None,
                "total_episodes": len(self.episodes),
                "total_frames": self.data.rows,
                "total_tasks": len(self.tasks),
                "chunks_size": layout.CHUNK_FILES,
                "data_files_size_in_mb": layout.DATA_MB,
                "video_files_size_in_mb": layout.VIDEO_MB,
                "fps": self.fps,
                "splits": {"train": f"0:{len(self.episodes)}"},
                "data_path": layout.DATA,
                "video_path": layout.VIDEO if self.videos else None,
                "features": self.features,
            },
        )

    def close(self) -> None:
        """Close the files."""
        for files in (self.data, *self.videos.values()):
            files.close()

    def _columns(self, number: int, episode: Episode) -> Columns:
        """Rows of an episode, by feature."""
        length = episode.info.length
        columns = {
            layout.feature_name(key): rows[:length]
            for key, rows in (episode.obs | episode.steps).items()
            if key not in self.videos and key != "terminated"
        }
        if "terminated" in episode.steps:
            columns[layout.DONE] = episode.steps["terminated"] | episode.steps["truncated"]
        frame, task = np.arange(length), self.tasks.setdefault(episode.info.instruction, len(self.tasks))
        numbers = (frame / self.fps, frame, 0 * frame + number, self.data.rows + frame, 0 * frame + task)
        for (name, dtype), values in zip(layout.INDICES.items(), numbers, strict=True):
            columns[name] = values.astype(dtype)
        return columns


def _flat(feature: str, values: stats.Stats) -> dict[str, Any]:
    return {f"stats/{feature}/{name}": value for name, value in values.items()}


def _task_table(instructions: list[str]) -> Any:
    """Instructions and their indices, in the form of a pandas frame with the instructions as index, as LeRobot reads them."""
    table = require("pyarrow").table({"task_index": list(range(len(instructions))), "task": instructions})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    index = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {"index_columns": ["task"], "column_indexes": [index], "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
