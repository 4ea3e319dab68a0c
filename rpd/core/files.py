"""Atomic writes of text and JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rpd.students.io.files import write_bytes


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (temporary file, fsync, rename).

    Raises:
        OSError: e.g. the disk is full; an older file stays intact.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
