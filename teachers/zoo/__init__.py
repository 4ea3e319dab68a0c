"""Models shipped with rpd, as ``zoo/NAME``: one checkpoint folder each, with a model card README.md."""

from __future__ import annotations

from pathlib import Path

from rpd.envs.errors import unknown_name

PREFIX = "zoo/"
MODELS = {"tabletop": "openvla", "tabletop-octo": "octo"}
"""Folder name -> family that loads it."""


def resolve(name: str) -> tuple[str, str]:
    """Return the family and the checkpoint folder of a shipped model.

    Args:
        name: e.g. ``"zoo/tabletop"``.

    Raises:
        ConfigError: there is no such model.
    """
    model = name.removeprefix(PREFIX)
    if model not in MODELS:
        raise unknown_name("model of the zoo", name, [PREFIX + m for m in MODELS])
    return MODELS[model], str(Path(__file__).parent / model)
