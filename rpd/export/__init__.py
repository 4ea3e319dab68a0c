"""Policies that leave: networks in a format that others read, with all that a robot's computer must know of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from envs.errors import ConfigError
from rpd.export.runtime import SPEC, BadExport, Policy

if TYPE_CHECKING:
    from envs.specs import EnvSpec


def load(folder: Path, threads: int = 1) -> Policy:
    """Load an exported policy as a robot's computer does, see `Policy.load`; without torch, unless its format needs it.

    Raises:
        ConfigError: one line that names the file and what is wrong with it.
    """
    try:
        return Policy.load(folder, threads)
    except BadExport as error:
        raise ConfigError(str(error)) from None


def is_exported(path: Path) -> bool:
    """Whether a path is a folder that `rpd export` wrote."""
    return (path / SPEC).is_file()


def spec_of(folder: Path) -> EnvSpec:
    """What an exported policy was made for; reads nothing else of it.

    Raises:
        ConfigError: damaged.
    """
    from envs.specs import EnvSpec

    try:
        return EnvSpec.model_validate(json.loads((folder / SPEC).read_bytes())["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / SPEC}: damaged: {' '.join(str(error).split())[:200]}") from None
