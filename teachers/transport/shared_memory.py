"""Shared memory between a client and a server on one machine, in place of sending large arrays through a socket.

The client creates a block, sends its name to the server, and unlinks the name as soon as the server has opened the block (or
refused). The block then exists only as long as one of the two holds it, and nothing remains after a crash. Between creation and
unlinking, multiprocessing's resource tracker cleans up after a killed client.

The server does not map the block but reads and writes it as a file: access to mapped pages of a file that its owner has
truncated would kill the process. Copying costs nothing extra, as policies may keep the observations anyway.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from abc import ABC, abstractmethod
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

FOLDER = Path("/dev/shm")  # Linux exposes the blocks as files here; other systems have no sharing
NAME = re.compile(r"rpd-[0-9a-f]{32}")
_ALIGN = 64


def available() -> bool:
    """Return whether this machine supports shared memory."""
    return FOLDER.is_dir()


class Arena(ABC):
    """A block that holds the arrays of a request, followed by those of its answer.

    Attributes:
        size: size in bytes.
        used: bytes in use.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def put(self, data: np.ndarray) -> int | None:
        """Append bytes [n] and return their offset; None if there is not enough room."""
        offset = -(-self.used // _ALIGN) * _ALIGN
        if offset + len(data) > self.size:
            return None
        self._write(offset, data)
        self.used = offset + len(data)
        return offset

    def get(self, offset: int, size: int) -> np.ndarray | None:
        """Copy bytes [size] out; None if they overlap with earlier ones or lie outside of the block."""
        if not (self.used <= offset and offset + size <= self.size):
            return None
        self.used = offset + size
        return self._read(offset, size)

    @abstractmethod
    def _write(self, offset: int, data: np.ndarray) -> None: ...

    @abstractmethod
    def _read(self, offset: int, size: int) -> np.ndarray | None: ...

    @abstractmethod
    def close(self) -> None:
        """Release the memory."""


class OwnBlock(Arena):
    """Client side: creates the block."""

    def __init__(self, size: int) -> None:
        """Create a block.

        Raises:
            OSError: not enough memory.
        """
        super().__init__(size)
        self.name = f"rpd-{secrets.token_hex(16)}"
        self._memory = SharedMemory(self.name, create=True, size=size)
        try:
            descriptor = os.open(FOLDER / self.name, os.O_RDWR | os.O_CLOEXEC)
            try:  # reserve the pages: a write to pages that the file system cannot provide would kill this process
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError:
            self.unlink()
            self.close()
            raise

    def unlink(self) -> None:
        """Remove the name: no other process can open the block afterwards."""
        self._memory.unlink()

    def _write(self, offset: int, data: np.ndarray) -> None:
        self._view(offset, len(data))[:] = data

    def _read(self, offset: int, size: int) -> np.ndarray:
        return self._view(offset, size).copy()

    def _view(self, offset: int, size: int) -> np.ndarray:
        return np.ndarray(size, np.uint8, self._memory.buf, offset)

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()


class PeerBlock(Arena):
    """Server side: opens a block that a client has created."""

    def __init__(self, name: str, size: int) -> None:
        """Open a block.

        Raises:
            ValueError: no block with this name and size.
        """
        super().__init__(size)
        if not NAME.fullmatch(name):
            raise ValueError("a block's name is 'rpd-' and 32 hexadecimal digits")
        try:
            self._file = os.open(FOLDER / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ValueError(f"the block cannot be opened here: {error.strerror}") from None
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_size < size:
            self.close()
            raise ValueError(f"the block does not have {size} bytes")

    def _write(self, offset: int, data: np.ndarray) -> None:
        rest = data.data
        while rest:
            rest = rest[os.pwrite(self._file, rest, offset + len(data) - len(rest)) :]

    def _read(self, offset: int, size: int) -> np.ndarray | None:
        data = np.empty(size, np.uint8)
        done = 0
        while done < size:
            count = os.preadv(self._file, [data[done:].data], offset + done)
            if count == 0:  # the owner has truncated the file
                return None
            done += count
        return data

    def close(self) -> None:
        """Release the memory; may be called twice."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
