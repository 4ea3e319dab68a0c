"""Size presets of new models: one YAML file each in the folder sizes/ of their family."""

from __future__ import annotations

from importlib import resources
from typing import Any

from rpd.envs import unique_yaml
from rpd.envs.errors import unknown_name


def names(family: str) -> list[str]:
    """Names of the presets of a family."""
    return sorted(f.name.removesuffix(".yaml") for f in folder(family).iterdir() if f.name.endswith(".yaml"))


def read(family: str, name: str) -> dict[str, Any]:
    """Read a preset.

    Raises:
        ConfigError: the preset does not exist.
    """
    if name not in names(family):
        raise unknown_name("size of a new model", name, names(family))
    file = folder(family).joinpath(f"{name}.yaml")
    return dict(unique_yaml.load(file.read_text(), str(file)))


def folder(family: str) -> Any:
    """Folder of a family's presets."""
    return resources.files("rpd.teachers").joinpath(family).joinpath("sizes")
