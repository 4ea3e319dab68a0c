"""Policies that leave: networks in a format that others read, with all that a robot's computer must know of them."""

from __future__ import annotations

from pathlib import Path

from envs.errors import ConfigError
from rpd.export.runtime import BadExport, Policy


def load(folder: Path, threads: int = 1) -> Policy:
    """Load an exported policy as a robot's computer does, see `Policy.load`; without torch, unless its format needs it.

    Raises:
        ConfigError: one line that names the file and what is wrong with it.
    """
    try:
        return Policy.load(folder, threads)
    except BadExport as error:
        raise ConfigError(str(error)) from None
