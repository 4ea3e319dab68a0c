"""Options behind a name, as a person writes them: ``NAME:KEY=VALUE,KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable

from envs.errors import ConfigError


def keyed(parts: Iterable[str], owner: str, form: str) -> dict[str, str]:
    """Split options into keys and values.

    Args:
        parts: e.g. ``["noise=0.5", "bias=0.02"]``.
        owner: whose options they are, for the message.
        form: how an option is written where that is documented, for the message.

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
