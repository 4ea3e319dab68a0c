"""Videos: a grid of episodes with success marked per tile, and two videos side by side."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import imageio.v2 as imageio
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rpd.envs.vector_env import VectorEnv

Frames = npt.NDArray[np.uint8]

GREEN, GREY, BACKGROUND, TEXT = (46, 178, 92), (120, 124, 130), (17, 19, 23), (236, 238, 241)
HOLD_S = 0.7
"""Duration of the last frame, s."""


class VideoWriter:
    """Streams frames into an mp4 (H.264, playable in browsers). A context manager.

    The file gets its name only when it is complete; after an exception no file is left.

    Args:
        path: ends in ``.mp4``.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = Path(path)
        self.partial = self.path.with_suffix(".partial.mp4")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.last: Frames | None = None
        self.fps = fps
        self.writer: Any = imageio.get_writer(
            str(self.partial),
            format="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,  # frames are padded to even sizes; anything larger would rescale them
            output_params=["-crf", "26", "-movflags", "+faststart"],
        )

    def write(self, frame: Frames) -> None:
        """Append one frame [H, W, 3] uint8; all frames have the size of the first."""
        height, width = frame.shape[:2]
        self.last = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)))  # yuv420p needs even sizes
        self.writer.append_data(self.last)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self.last is not None:
            for _ in range(round(HOLD_S * self.fps)):
                self.writer.append_data(self.last)
        self.writer.close()
        if kind is None and self.last is not None:
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


class GridRecorder:
    """Records the first episodes of an evaluation; pass it to `evaluate` as `on_frame`. A context manager.

    Args:
        path: output mp4.
        fps: control steps per second, for real-time playback.
        seed: seed of environment 0, for the captions.
        tiles: maximum number of environments.
        size: height and width of a tile, pixels.
    """

    def __init__(self, path: Path, fps: float, seed: int, tiles: int = 16, size: int = 128) -> None:
        self.video = VideoWriter(path, fps)
        self.seed = seed
        self.tiles = tiles
        self.size = size
        self.frames: Frames | None = None

    def __call__(self, env: VectorEnv, running: Tensor, success: Tensor) -> None:
        """Add one frame; tiles of ended episodes keep their last frame."""
        count = min(self.tiles, env.num_envs)
        alive = running[:count].nonzero()[:, 0].tolist()
        if self.frames is None:
            count = len(alive)  # a batch may have more environments than episodes
            self.frames = np.zeros((count, self.size, self.size, 3), np.uint8)
        if alive:
            self.frames[alive] = env.render(alive, self.size).numpy()
        count = len(self.frames)
        captions = [f"seed {self.seed + i}" for i in range(count)]
        self.video.write(grid(self.frames, success[:count].cpu().numpy(), captions=captions))

    def __enter__(self) -> GridRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.video.__exit__(kind, value, trace)


def grid(
    frames: Frames, success: npt.NDArray[np.bool_], cols: int | None = None, captions: list[str] | None = None, gap: int = 4
) -> Frames:
    """Arrange tiles in rows: solved tiles have a wide green border, others a thin gray one.

    Args:
        frames: [N, H, W, 3] uint8.
        success: [N] bool.
        cols: tiles per row; None: a grid as square as possible.
        captions: one per tile.
        gap: pixels between tiles.

    Returns:
        [rows * (H + gap) + gap, cols * (W + gap) + gap, 3] uint8.
    """
    n, height, width = frames.shape[:3]
    cols = cols or math.ceil(math.sqrt(n))
    rows = math.ceil(n / cols)
    page = np.empty((rows * (height + gap) + gap, cols * (width + gap) + gap, 3), np.uint8)
    page[:] = BACKGROUND
    for i in range(n):
        top, left = gap + i // cols * (height + gap), gap + i % cols * (width + gap)
        page[top : top + height, left : left + width] = _tile(frames[i], bool(success[i]), captions[i] if captions else "")
    return page


def _tile(frame: Frames, success: bool, caption: str) -> Frames:
    """Draw border and caption over one frame [H, W, 3]."""
    height, width = frame.shape[:2]
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    if caption:
        font = ImageFont.load_default(max(9, height // 16))
        _, _, right, bottom = draw.textbbox((0, 0), caption, font=font)
        draw.rectangle((0, height - bottom - 8, right + 12, height), fill=(*BACKGROUND, 150))
        draw.text((6, height - bottom - 6), caption, font=font, fill=TEXT)
    border = max(3, height // 40) if success else 1
    draw.rectangle((0, 0, width - 1, height - 1), outline=GREEN if success else GREY, width=border)
    return np.asarray(image)


def side_by_side(left: Path, right: Path, out: Path, titles: tuple[str, str]) -> None:
    """Join two videos of equal frame rate, each with a title; the shorter one keeps its last frame.

    Args:
        left: mp4.
        right: mp4.
        out: output mp4.
        titles: of left and right.
    """
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(imageio.get_reader(str(p)))) for p in (left, right)]
        video = stack.enter_context(VideoWriter(out, readers[0].get_meta_data()["fps"]))
        for a, b in _pairs(*(r.iter_data() for r in readers)):
            height = max(a.shape[0], b.shape[0])
            video.write(np.concatenate([_titled(f, t, height) for f, t in ((a, titles[0]), (b, titles[1]))], axis=1))


def _pairs(left: Any, right: Any) -> Iterator[tuple[Frames, Frames]]:
    """Pairs of frames until both videos have ended."""
    a: Frames | None = None
    b: Frames | None = None
    while True:
        next_a, next_b = next(left, None), next(right, None)
        if next_a is None and next_b is None:
            return
        a, b = a if next_a is None else next_a, b if next_b is None else next_b
        if a is None or b is None:
            return  # one of them has no frames
        yield a, b


def _titled(frame: Frames, title: str, height: int) -> Frames:
    """Add a title above a frame, and pad the frame to the given height."""
    bar = 34
    page = Image.new("RGB", (frame.shape[1], height + bar), BACKGROUND)
    page.paste(Image.fromarray(np.asarray(frame)), (0, bar))
    ImageDraw.Draw(page).text((10, 8), title, font=ImageFont.load_default(15), fill=TEXT)
    return np.asarray(page)
