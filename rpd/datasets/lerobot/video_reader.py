"""Decode frames of a video by their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from rpd.datasets.episode import Array
from rpd.envs.errors import ConfigError

MP4_ALONE = ["-f", "mp4", "-protocol_whitelist", "file"]
"""Input options of ffmpeg: without them it may detect a playlist from the content and fetch the files that it names."""


class Film:
    """Decodes frames of an mp4; consecutive reads need no seek.

    Args:
        path: the mp4.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._next = 0
        self._frames: Any = None
        self._shape: tuple[int, int, int] = (0, 0, 3)

    def read(self, first: int, count: int) -> Array:
        """Return the frames `first` to `first + count - 1`, uint8 [count, H, W, 3].

        Raises:
            ConfigError: the file has no such frames.
        """
        if self._frames is None or first != self._next:
            self._seek(first)
        images = np.empty((count, *self._shape), np.uint8)
        for i in range(count):
            frame = next(self._frames, None)
            if frame is None:
                self._frames = None
                raise ConfigError(f"{self.path}: truncated: it has no frame {first + i}")
            images[i] = np.frombuffer(frame, np.uint8).reshape(self._shape)
        self._next = first + count
        return images

    def _seek(self, first: int) -> None:
        if self._frames is not None:
            self._frames.close()
        # Half a frame early: the decoder returns the first frame that is not earlier than the requested time.
        start = ["-ss", f"{(first - 0.5) / self.fps:.6f}"] if first else []
        start += MP4_ALONE
        self._frames = imageio_ffmpeg.read_frames(self.path, input_params=start, output_params=["-fps_mode", "passthrough"])
        try:
            width, height = next(self._frames)["size"]
        except OSError:
            raise ConfigError(f"{self.path}: not a video that can be decoded") from None
        self._shape = (height, width, 3)
