"""YAML of plain values, without duplicate keys (PyYAML silently keeps the last)."""

from __future__ import annotations

from typing import Any

import yaml

from rpd.envs.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error on duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value]
        written = [key.value for key in keys]
        if twice := [key for i, key in enumerate(keys) if key.value in written[:i]]:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice[0].value}' is there twice", twice[0].start_mark)
        return super().construct_mapping(node, deep)


def load(content: str | bytes, where: str) -> Any:
    """Parse YAML.

    Args:
        content: the text.
        where: path of the file, for messages.

    Raises:
        ConfigError: invalid YAML or a duplicate key; names file and line.
    """
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date such as the 32nd
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: not valid YAML{line}: {problem}") from None
