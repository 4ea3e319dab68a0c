"""Names of drivers in robot files and on the command line: of one that ships, or ``FILE.py:Class``."""

from __future__ import annotations

from pathlib import Path

SEPARATOR = ".py:"


def is_file(name: str) -> bool:
    """Whether a driver's name is ``FILE.py:Class``."""
    return SEPARATOR in name


def absolute(name: str, folder: Path) -> str:
    """Name with an absolute path; other drivers' names unchanged.

    Args:
        name: name of a driver.
        folder: folder to which a path is relative.
    """
    if not is_file(name):
        return name
    stem, _, class_name = name.rpartition(SEPARATOR)
    return f"{(folder / Path(stem).expanduser()).resolve()}{SEPARATOR}{class_name}"
