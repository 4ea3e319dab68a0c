"""Memory that a client and a server on one machine share, so that arrays need not travel through a socket.

The client makes a block, tells its name to the server over the connection, and unlinks the name as soon as the server
has opened it (or refused): from then on the block lives only as long as one of the two holds it, and nothing is left
behind however they end. In the moment in between, multiprocessing's resource tracker cleans up after a killed client.

The server does not map the block but reads and writes it as a file. A mapping could be pulled from under it: touching
pages of a file that its owner has truncated kills the process. It copies anyway, for policies may keep what they saw.
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

FOLDER = Path("/dev/shm")  # where Linux shows the blocks as files; elsewhere there is no sharing
NAME = re.compile(r"rpd-[0-9a-f]{32}")
_ALIGN = 64


def available() -> bool:
    """Whether this machine can share memory."""
    return FOLDER.is_dir()


class Arena(ABC):
    """A block in which the arrays of a request, and after them those of its answer, lie one behind the other.

    Attributes:
        size: bytes.
        used: bytes that are taken.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def put(self, data: np.ndarray) -> int | None:
        """Copy bytes [n] in behind what is there; returns where they are, or None where there is no room."""
        offset = -(-self.used // _ALIGN) * _ALIGN
        if offset + len(data) > self.size:
            return None
        self._write(offset, data)
        self.used = offset + len(data)
        return offset

    def get(self, offset: int, size: int) -> np.ndarray | None:
        """Copy bytes [size] out; None where they are not behind what was taken before, or not in the block."""
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
        """Let go of the memory."""


class OwnBlock(Arena):
    """The client's side: makes the block."""

    def __init__(self, size: int) -> None:
        """Make a block.

        Raises:
            OSError: there is not so much memory.
        """
        super().__init__(size)
        self.name = f"rpd-{secrets.token_hex(16)}"
        self._memory = SharedMemory(self.name, create=True, size=size)
        try:
            descriptor = os.open(FOLDER / self.name, os.O_RDWR | os.O_CLOEXEC)
            try:  # pages that the file system promised and then does not have would kill this process
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError:
            self.unlink()
            self.close()
            raise

    def unlink(self) -> None:
        """Take the name away: nobody else can open the block any more."""
        self._memory.unlink()

    def _write(self, offset: int, data: np.ndarray) -> None:
        self._view(offset, len(data))[:] = data

    def _read(self, offset: int, size: int) -> np.ndarray:
        return self._view(offset, size).copy()

    def _view(self, offset: int, size: int) -> np.ndarray:
        return np.ndarray(size, np.uint8, self._memory.buf, offset)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class PeerBlock(Arena):
    """The server's side: opens a block that a client has made."""

    def __init__(self, name: str, size: int) -> None:
        """Open a block.

        Raises:
            ValueError: no block of ours has this name and size.
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
            if count == 0:  # the owner has truncated it
                return None
            done += count
        return data

    def close(self) -> None:
        """Let go of the memory. May be called twice."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
