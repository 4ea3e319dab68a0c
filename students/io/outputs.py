"""Claim output folders: one process creates and locks a folder before any work starts; existing results are not overwritten."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rpd.envs.errors import ConfigError
from rpd.students.io.files import sync_folder
from rpd.students.io.locks import LOCK, locked


@contextlib.contextmanager
def made(folder: Path) -> Iterator[bool]:
    """Create a folder and yield whether it is new; on exit, delete folders that are new and empty, parents included.

    Raises:
        ConfigError: the path is a file or lies below one.
    """
    new = _make(folder)
    try:
        yield folder in new
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


@contextlib.contextmanager
def claimed(folder: Path, taken: str) -> Iterator[Path]:
    """Claim a folder for new results: create it (see `made`) and lock it until the block ends.

    Empty folders and hidden files of a killed process may be claimed.

    Args:
        folder: the folder.
        taken: message if the folder has content.

    Raises:
        ConfigError: the folder has content, another process writes to it, or it is a file.
    """
    with made(folder) as new, locked(folder / LOCK, folder) as held:
        if not (held or new) or any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ConfigError(taken)
        yield folder


@contextlib.contextmanager
def claimed_unused(root: Path, stem: str) -> Iterator[Path]:
    """Claim ``root/stem``, else ``root/stem-2``, ``-3``, ...: the first name that does not exist. See `claimed`."""
    for folder in _names(root, stem):
        with made(folder) as new:
            if new:
                with locked(folder / LOCK, folder):
                    yield folder
                return


@contextlib.contextmanager
def claimed_file(path: Path, taken: str) -> Iterator[Path]:
    """Claim a file for new results until the block ends; an empty file, e.g. of a killed process, may be claimed.

    Raises:
        ConfigError: `taken`, if the file has content; or another process writes to it.
    """
    with made(path.parent), locked(_lock_path(path), path):
        if path.is_dir() or (path.exists() and path.stat().st_size):
            raise ConfigError(taken)
        try:
            yield path
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def unused_file(root: Path, stem: str, suffix: str) -> Path:
    """Create an empty file ``stem + suffix``, else ``stem-2``, ``-3``, ...: the first name that does not exist."""
    root.mkdir(parents=True, exist_ok=True)
    for path in _names(root, stem, suffix):
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            break
    return path


@contextlib.contextmanager
def staged(folder: Path, taken: str) -> Iterator[Path]:
    """Create a folder that appears when it is complete: write into the yielded folder, which is renamed on exit.

    Args:
        folder: the final name, claimed until the block ends.
        taken: message if it exists.

    Raises:
        ConfigError: the folder exists, or another process writes to it.
        OSError: e.g. a full disk; nothing remains on disk.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with made(folder.parent), locked(_lock_path(folder), folder):
        if folder.exists():
            raise ConfigError(taken)
        try:
            temporary.mkdir()
            yield temporary
            os.rename(temporary, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _names(root: Path, stem: str, suffix: str = "") -> Iterator[Path]:
    yield root / f"{stem}{suffix}"
    for number in itertools.count(2):
        yield root / f"{stem}-{number}{suffix}"


def _lock_path(path: Path) -> Path:
    """Lock file for a path that does not exist yet as a folder."""
    return path.with_name(f".{path.name}{LOCK}")


def _make(folder: Path, attempts: int = 100) -> list[Path]:
    """Create a folder and its parents; return the created ones, the folder itself only if no other process created it."""
    parents = [path for path in folder.parents if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileNotFoundError:  # another process has deleted an empty parent
        if not attempts:  # a file system without new folders, e.g. /proc
            raise
        return _make(folder, attempts - 1)
    except (FileExistsError, NotADirectoryError):
        if not folder.is_dir():
            at = next(path for path in (folder, *folder.parents) if path.exists())
            raise ConfigError(f"{at} is a file: results need a folder, choose another") from None
        return parents
    return [folder, *parents]


def similar_runs(path: Path) -> list[str]:
    """Return runs with names similar to a path that does not exist, for error messages."""
    path = Path(path)
    return difflib.get_close_matches(str(path), [str(p.parent) for p in path.parent.glob("*/config.yaml")])
