"""Atomic file writes, and digests that detect altered files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from rpd.envs.errors import ConfigError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers, and a crash at any moment, leave either the old content or the new one.

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
            error.filename = str(path)  # errors of write and fsync do not name the file
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable across a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_inside(folder: Path, path: Path) -> Path:
    """Check that a path named by a file of a folder lies in that folder, following links, and return it.

    Raises:
        ConfigError: it lies outside of the folder; names both.
    """
    home, real = folder.resolve(), path.resolve()
    if home.parent.name == "snapshots":  # hub cache: files are links to ../../blobs
        home = home.parents[1]
    if not real.is_relative_to(home):
        raise ConfigError(f"{path} leads out of {folder}, to {real}: files that are read must lie in the folder")
    return path


def digest(data: bytes) -> dict[str, int | str]:
    """Size in bytes and SHA-256 of a file's content."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def file_digest(path: Path) -> dict[str, int | str]:
    """The `digest` of a file, read in blocks."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return {"size": path.stat().st_size, "sha256": total.hexdigest()}


def mismatch(actual: dict[str, int | str], expected: object) -> str | None:
    """Describe how a `digest` differs from the recorded one; None if they are equal."""
    if actual == expected:
        return None
    size = expected.get("size") if isinstance(expected, dict) else None
    if size != actual["size"]:
        return f"truncated or altered: {actual['size']} bytes instead of {size}"
    return "altered: its SHA-256 differs from the one recorded when it was written"
