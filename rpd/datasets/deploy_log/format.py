"""File format of deployment recordings: append-only, readable after any interruption.

After a line that names the format, frames follow: length and CRC-32 of the payload, 4 bytes each, little-endian, then the
payload, a msgpack map (`rpd.teachers.transport.codec`). A damaged frame is a gap: it is reported, and valid frames after it are
read. The first frame describes the deployment; then come ``episode``, ``tick`` and ``end`` frames.
"""

from __future__ import annotations

import mmap
import os
import queue
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rpd.envs.errors import ConfigError, RunFault
from rpd.teachers.transport.codec import MalformedMessage, Message, decode, encode

MAGIC = b"rpd-deployment 1\n"
FRAME = struct.Struct("<II")
FIRST_KEY = b"\xa4kind"
"""Encoding of the first key in msgpack."""
MAP_MARKERS = (1, 3)
"""Number of bytes before the first key in msgpack: for a map of up to 15 entries, and for a larger one."""
SYNC = 0.5  # s between calls of fdatasync
BEHIND = 400  # maximum number of queued frames
OPERATOR = "operator"
"""Value of ``who`` in the frame of an action by which an operator corrected the policy."""


class RecordLost(RunFault):
    """The recording cannot continue; the message gives the reason."""


class Recorder:
    """Writes frames in a thread, because a disk write may block longer than a control step."""

    def __init__(self, path: Path, head: Message) -> None:
        """Write the first frame of a file that is new or empty (see `rpd.students.io.outputs.claimed_file`).

        Raises:
            ConfigError: the file is not empty.
            OSError: the file cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            raise ConfigError(f"{path} exists already: name another --out")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._failed: str | None = None
        self._frames: queue.Queue[bytes | None] = queue.Queue(BEHIND)
        _write(self._file, MAGIC + _frame(head))
        self._writer = threading.Thread(target=self._run, daemon=True, name="recorder")
        self._writer.start()

    def add(self, frame: Message) -> None:
        """Queue a frame.

        Raises:
            RecordLost: an earlier frame could not be written, or the queue is full.
        """
        if self._failed is not None:
            raise RecordLost(f"record {self.path}: {self._failed}")
        try:
            self._frames.put_nowait(_frame(frame))
        except queue.Full:
            raise RecordLost(f"record {self.path}: the disk is {BEHIND} frames behind") from None

    def close(self) -> None:
        """Write queued frames and close the file; unwritten frames are lost after `RecordLost`."""
        if self._writer.is_alive():
            self._frames.put(None)
            self._writer.join()
        os.close(self._file)

    def _run(self) -> None:
        try:
            while True:
                try:
                    frame = self._frames.get(timeout=SYNC)
                except queue.Empty:
                    continue
                while frame is not None:
                    _write(self._file, frame)
                    try:
                        frame = self._frames.get_nowait()
                    except queue.Empty:
                        break
                os.fdatasync(self._file)
                if frame is None:
                    return
        except OSError as error:
            self._failed = error.strerror or str(error)


class Gap(NamedTuple):
    """Bytes of a recording without a valid frame, between or after valid ones."""

    size: int


def read(path: Path) -> Iterator[Message]:
    """Read the valid frames of a recording.

    Raises:
        ConfigError: the file is missing, or not a recording.
    """
    return (frame for _, frame in scan(path) if not isinstance(frame, Gap))


def scan(path: Path) -> Iterator[tuple[int, Message | Gap]]:
    """Read every valid frame with its file offset, see `read_at`, and every gap with its offset.

    An incomplete last frame is not a gap: the interruption may have happened there.

    Raises:
        ConfigError: the file is missing, or not a recording.
    """
    with _open(path) as file:
        data = file.read(len(MAGIC))
        if data != MAGIC:
            raise ConfigError(f"{path}: is not a record of `rpd deploy`, or of another version")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            yield from _scan(whole)


def _scan(data: mmap.mmap) -> Iterator[tuple[int, Message | Gap]]:
    place = len(MAGIC)
    while place < len(data):
        frame, end = _at(data, place)
        if frame is None:
            behind = _sound_from(data, place)
            if behind is None and end > len(data):
                return
            end = len(data) if behind is None else behind
        yield place, Gap(end - place) if frame is None else frame
        place = end


def read_at(path: Path, place: int) -> Message:
    """Read one frame again by its offset.

    Raises:
        ConfigError: the frame has disappeared.
    """
    with _open(path) as file:
        file.seek(place)
        head = file.read(FRAME.size)
        frame, _ = _at(head + file.read(FRAME.unpack(head)[0]), 0) if len(head) == FRAME.size else (None, 0)
    if frame is None:
        raise ConfigError(f"{path}: has changed while it was read")
    return frame


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): expected a record that `rpd deploy` wrote") from None


def _at(data: mmap.mmap | bytes, place: int) -> tuple[Message | None, int]:
    """Frame at an offset (None if invalid or damaged), and its end offset according to its header."""
    head = data[place : place + FRAME.size]
    if len(head) < FRAME.size:
        return None, place + FRAME.size
    size, checksum = FRAME.unpack(head)
    end = place + FRAME.size + size
    if end > len(data) or zlib.crc32(payload := data[place + FRAME.size : end]) != checksum:
        return None, end
    try:
        return decode(payload), end
    except MalformedMessage:
        return None, end


def _sound_from(data: mmap.mmap, damaged: int) -> int | None:
    """Offset of the first valid frame after a damaged one, whose length may be damaged."""
    hit = data.find(FIRST_KEY, damaged + 1)
    while hit >= 0:
        for marker in MAP_MARKERS:
            place = hit - marker - FRAME.size
            if place > damaged and _at(data, place)[0] is not None:
                return place
        hit = data.find(FIRST_KEY, hit + 1)
    return None


def _frame(message: Message) -> bytes:
    payload = encode(message)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
