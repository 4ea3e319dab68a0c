"""Content digests that identify files, independent of their names; used to compare policies, teachers and bases.

Digests of large files are cached in the user's cache folder while inode, size, modification time and status change time stay
the same (the status change time moves with every write, even if a tool restores the modification time).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from rpd.students.io.files import file_digest, write_bytes

LARGE = 2**26  # bytes: for smaller files, reading is as fast as a cache lookup
SETTLED = 2.0  # s between a change and caching its digest: a second write within one clock tick would go unnoticed


def combine(*parts: object) -> str:
    """Digest of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_identity(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    return _digest(str(path.resolve()), _stamp(path))


def folder_identity(folder: Path) -> str:
    """Digest of a folder's visible files and their relative names; links are followed.

    Raises:
        OSError: a file cannot be read.
    """
    files = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            files[path.relative_to(folder).as_posix()] = file_identity(path)
    return combine(files)


def short(identity: str) -> str:
    """Shortened digest for display."""
    return identity[:12]


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(path: str, stamp: tuple[int, ...]) -> str:
    size, changed = stamp[2], max(stamp[3:])
    if size < LARGE or time.time_ns() - changed < SETTLED * 1e9:
        return str(file_digest(Path(path))["sha256"])
    kept = _cache() / combine(path, *stamp)
    with contextlib.suppress(OSError):
        if len(known := kept.read_text()) == 64:
            return known
    found = str(file_digest(Path(path))["sha256"])
    with contextlib.suppress(OSError):  # a read-only home only costs time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, found.encode())
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rpd" / "digests"
