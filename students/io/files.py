"""Files that are either whole or absent, and that say when they were altered."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader, or a crash at any moment, sees the old content or the new one.

    Raises:
        OSError: e.g. a full disk; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a write or an fsync does not say of which file
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(data: bytes) -> dict[str, int | str]:
    """Size in bytes and SHA-256 of a file's content, to be kept beside it."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def file_digest(path: Path) -> dict[str, int | str]:
    """The `digest` of a file, which need not fit into memory."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return {"size": path.stat().st_size, "sha256": total.hexdigest()}


def mismatch(actual: dict[str, int | str], expected: object) -> str | None:
    """Say in a few words how a `digest` differs from the one that was kept, or None."""
    if actual == expected:
        return None
    size = expected.get("size") if isinstance(expected, dict) else None
    if size != actual["size"]:
        return f"truncated or altered: {actual['size']} bytes instead of {size}"
    return "altered: its SHA-256 differs from the one recorded when it was written"
