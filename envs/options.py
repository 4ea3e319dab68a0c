"""Parser of options appended to a name: ``NAME:KEY=VALUE,KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable

from rpd.envs.errors import ConfigError


def keyed(parts: Iterable[str], owner: str, form: str) -> dict[str, str]:
    """Parse ``KEY=VALUE`` parts.

    Args:
        parts: e.g. ``["noise=0.5", "bias=0.02"]``.
        owner: owner of the options, for the message.
        form: documented form of an option, for the message.

    Raises:
        ConfigError: an option without a value, or given twice.
    """
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = (s.strip() for s in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"{owner}: '{part}' is not an option; write {form}, separated by commas")
        if key in options:
            raise ConfigError(f"{owner}: option '{key}' is given twice")
        options[key] = value
    return options
