"""File locks between processes; the kernel releases them when a process ends, even if it is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rpd.envs.errors import ConfigError

LOG = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the lock file of a folder."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(path: Path, what: Path | str, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file. It is deleted on release (after kill -9 it remains, unlocked).

    Args:
        path: the lock file; its folder exists.
        what: what the lock protects, for messages.
        wait: wait for another holder instead of raising an error.

    Yields:
        True if the lock is held; False, with a warning, if the file system has no locks.

    Raises:
        ConfigError: another process holds the lock; names the process.
        OSError: the file cannot be created.
    """
    file, held = _acquire(path, what, wait)
    try:
        yield held
    finally:
        # Deleted before the release: a process that has opened it in between detects this and tries again.
        if _is_at(file, path):
            path.unlink(missing_ok=True)
        os.close(file)


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock file."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _acquire(path: Path, what: Path | str, wait: bool) -> tuple[int, bool]:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by child processes
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                LOG.warning(f"{what}: this file system has no locks: no other process may write here")
                return file, False
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise ConfigError(f"{what} is being written by {_holder(path)}: wait for it, or end it") from None
            raise
        if _is_at(file, path):
            os.truncate(file, 0)
            os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            return file, True
        os.close(file)  # the last holder has deleted it in between


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # the holder has not written its name yet
        return "another process"
