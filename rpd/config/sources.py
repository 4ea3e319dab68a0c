"""Sources of the values of a configuration: the settings file, its variant, or the command line."""

from __future__ import annotations

from typing import Any, NamedTuple

from rpd.config.loader import Layer
from rpd.config.resume import flat
from rpd.config.schema import RunConfig

COMMAND_LINE = "command line"


class Sourced(NamedTuple):
    """One value of a configuration."""

    name: str
    """Dotted name, e.g. ``ppo.gamma``."""
    value: Any
    source: str
    """Settings file, with the condition of its variant, or `COMMAND_LINE`."""


def chosen_values(config: RunConfig, layers: list[Layer]) -> list[Sourced]:
    """Values of a configuration that are not the defaults of `RunConfig`, with their sources.

    Args:
        config: the layers, overridden by the command line.
        layers: settings that apply, lowest priority first, see `rpd.config.loader.with_variants`.

    Returns:
        One row per value but the task, in the order of `RunConfig`; also values that the command line returns to their default.
    """
    defaults = flat(RunConfig(task="").model_dump(mode="json"))
    set_by: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        validated = flat(RunConfig.model_validate({"task": "", **layer.settings}).model_dump(mode="json"))
        set_by |= {name: (validated[name], layer.source) for name in flat(layer.settings) if name in validated}
    rows = []
    for name, value in flat(config.model_dump(mode="json", exclude={"task"})).items():
        below, source = set_by.get(name, (defaults[name], ""))
        if value != below:
            rows.append(Sourced(name, value, COMMAND_LINE))
        elif value != defaults[name]:
            rows.append(Sourced(name, value, source))
    return rows
