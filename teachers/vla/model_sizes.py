"""Sizes of new models: a YAML file each in the folder sizes/ of their family."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from envs.errors import unknown_name


def names(family: str) -> list[str]:
    """The sizes of a family."""
    return sorted(f.name.removesuffix(".yaml") for f in folder(family).iterdir() if f.name.endswith(".yaml"))


def read(family: str, name: str) -> dict[str, Any]:
    """What a file says.

    Raises:
        ConfigError: there is no such size.
    """
    if name not in names(family):
        raise unknown_name("size of a new model", name, names(family))
    return dict(yaml.safe_load(folder(family).joinpath(f"{name}.yaml").read_text()))


def folder(family: str) -> Any:
    """Where a family's sizes are."""
    return resources.files("teachers").joinpath(family).joinpath("sizes")
