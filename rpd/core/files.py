"""Text and JSON files that are either whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from students.files import write_bytes


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (temporary file, fsync, rename).

    Raises:
        OSError: e.g. a full disk; an older file is intact.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
