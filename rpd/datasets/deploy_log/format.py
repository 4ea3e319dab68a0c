"""The record of a deployment: a file that only grows, and can be read whatever ended its writing.

After a line that names the format, frames follow: the length and the CRC-32 of the payload, 4 bytes each, little-endian, then
the payload, a msgpack map (`teachers.wire.codec`). What is behind the last sound frame is ignored. The first frame describes
the deployment; then come ``episode``, ``tick`` and ``end``.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from envs.errors import ConfigError, RunFault
from teachers.wire.codec import MalformedMessage, Message, decode, encode

MAGIC = b"rpd-deployment 1\n"
FRAME = struct.Struct("<II")
SYNC = 0.5  # s between the moments at which what was written is forced onto the disk
BEHIND = 400  # frames that may wait for the disk


class RecordLost(RunFault):
    """Nothing more can be recorded; the message says why."""


class Recorder:
    """Writes frames. A thread does, because a disk may take its time, and the robot has none."""

    def __init__(self, path: Path, head: Message) -> None:
        """Create a file and write its first frame.

        Raises:
            ConfigError: the file exists already.
            OSError: it cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError:
            raise ConfigError(f"{path} exists already: name another --out") from None
        self._failed: str | None = None
        self._frames: queue.Queue[bytes | None] = queue.Queue(BEHIND)
        _write(self._file, MAGIC + _frame(head))
        self._writer = threading.Thread(target=self._run, daemon=True, name="recorder")
        self._writer.start()

    def add(self, frame: Message) -> None:
        """Put a frame in line.

        Raises:
            RecordLost: an earlier one could not be written, or too many wait.
        """
        if self._failed is not None:
            raise RecordLost(f"record {self.path}: {self._failed}")
        try:
            self._frames.put_nowait(_frame(frame))
        except queue.Full:
            raise RecordLost(f"record {self.path}: the disk is {BEHIND} frames behind") from None

    def close(self) -> None:
        """Write what waits, and close; what could not be written is lost, and `RecordLost` has said so."""
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


def read(path: Path) -> Iterator[Message]:
    """Read the frames of a record, up to the last sound one.

    Raises:
        ConfigError: the file is missing, or no record.
    """
    return (frame for _, frame in places(path))


def places(path: Path) -> Iterator[tuple[int, Message]]:
    """The same, each with its place in the file, see `read_at`."""
    with _open(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ConfigError(f"{path}: is no record that `rpd deploy` wrote, or one of another version")
        while True:
            place = file.tell()
            frame = _next(file)
            if frame is None:
                return
            yield place, frame


def read_at(path: Path, place: int) -> Message:
    """Read one frame again.

    Raises:
        ConfigError: it is not there any more.
    """
    with _open(path) as file:
        file.seek(place)
        frame = _next(file)
    if frame is None:
        raise ConfigError(f"{path}: has changed while it was read")
    return frame


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): expected a record that `rpd deploy` wrote") from None


def _next(file: BinaryIO) -> Message | None:
    """The frame that follows; None where there is none, or a damaged one."""
    head = file.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    size, checksum = FRAME.unpack(head)
    payload = file.read(size)
    if len(payload) < size or zlib.crc32(payload) != checksum:
        return None
    try:
        return decode(payload)
    except MalformedMessage:
        return None


def _frame(message: Message) -> bytes:
    payload = encode(message)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
