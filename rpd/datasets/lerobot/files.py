"""Files with several consecutive episodes: parquet tables, and mp4 videos of a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from rpd.datasets.episode import Array, require
from rpd.datasets.lerobot import layout

Columns = dict[str, Array]


class _Files:
    """Numbered files; an episode starts a new file once the current one has reached `limit_mb`."""

    def __init__(self, root: Path, template: str, limit_mb: int) -> None:
        self.root, self.template, self.limit = root, template, limit_mb * 2**20
        self.chunk, self.file = 0, 0
        self.writer: Any = None

    @property
    def path(self) -> Path:
        """Path of the current file."""
        return self.root / self.template.format(chunk_index=self.chunk, file_index=self.file)

    def roll(self) -> bool:
        """Close a full file; returns whether a new one must be opened."""
        if self.writer is not None and self.path.exists() and self.path.stat().st_size >= self.limit:
            self.close()
            carry, self.file = divmod(self.file + 1, layout.CHUNK_FILES)
            self.chunk += carry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.writer is None

    def place(self, prefix: str) -> dict[str, int]:
        """Location of the newest episode, as ``<prefix>/chunk_index`` and ``<prefix>/file_index``."""
        return {f"{prefix}/chunk_index": self.chunk, f"{prefix}/file_index": self.file}

    def close(self) -> None:
        """Close the current file."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None


class Table(_Files):
    """One row per control step, one row group per episode.

    Attributes:
        rows: number of rows so far.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, layout.DATA, layout.DATA_MB)
        self.rows = 0

    def add(self, columns: Columns) -> dict[str, Any]:
        """Append an episode, columns [T] or [T, D]; returns its location."""
        table = to_table(columns)
        if self.roll():
            self.writer = require("pyarrow.parquet").ParquetWriter(self.path, table.schema, write_page_checksum=True)
        self.writer.write_table(table)
        first, self.rows = self.rows, self.rows + table.num_rows
        return {**self.place("data"), "dataset_from_index": first, "dataset_to_index": self.rows}


class Video(_Files):
    """Frames of one feature: H.264 with every other frame a key frame, LeRobot's setting for random access."""

    def __init__(self, root: Path, feature: str, fps: int) -> None:
        super().__init__(root, layout.VIDEO.replace("{video_key}", feature), layout.VIDEO_MB)
        self.feature, self.fps, self.frames = feature, fps, 0

    def add(self, frames: Array) -> dict[str, Any]:
        """Append an episode [T, H, W, 3] uint8; returns its location, in seconds."""
        if self.roll():
            self.frames = 0
            self.writer = imageio.get_writer(
                str(self.path),
                format="FFMPEG",
                fps=self.fps,
                codec="libx264",
                pixelformat="yuv420p",
                macro_block_size=1,
                output_params=["-crf", "18", "-g", "2", "-bf", "0"],
                ffmpeg_log_level="error",
            )
        for frame in frames:
            self.writer.append_data(np.ascontiguousarray(frame))
        first, self.frames = self.frames, self.frames + len(frames)
        prefix = f"videos/{self.feature}"
        times = {f"{prefix}/from_timestamp": first / self.fps, f"{prefix}/to_timestamp": self.frames / self.fps}
        return {**self.place(prefix), **times}


def to_table(columns: Columns) -> Any:
    """Return an arrow table; a column [T, D] becomes lists of D."""
    pa = require("pyarrow")
    arrays = []
    for values in columns.values():
        flat = pa.array(values.reshape(-1))
        arrays.append(flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
    return pa.table(arrays, names=list(columns))
