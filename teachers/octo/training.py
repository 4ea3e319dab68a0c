"""Training settings stored in an Octo checkpoint: finetune_config.json, or the copy in config.json.

Octo's finetune.py writes finetune_config.json to the model's folder; config.json there is that of the pretrained model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import parse_object
from rpd.teachers.octo.statistics import Normalization

FINETUNE = "finetune_config.json"
KINDS: dict[str, Normalization] = {"normal": "normal", "bounds": "bounds"}


class Training(NamedTuple):
    """Training settings; None: unknown."""

    source: str
    """File that contains them."""
    normalization: Normalization | None
    """Normalization of actions."""
    crop_scale: tuple[float, float] | None
    """Smallest and largest fraction of the area of image_primary in random crops."""


def read(config: Mapping[str, Any], files: Mapping[str, bytes], name: str) -> Training:
    """Read the training settings of a checkpoint.

    Args:
        config: content of config.json.
        files: content of its small files, by name.
        name: the checkpoint, for messages.

    Raises:
        ConfigError: an unsupported normalization, or a damaged file.
    """
    source = FINETUNE if FINETUNE in files else "config.json"
    said = parse_object(files[FINETUNE], f"{name}/{FINETUNE}") if FINETUNE in files else config
    kind = _find(said, "action_proprio_normalization_type")
    if kind is not None and kind not in KINDS:
        raise ConfigError(
            f"{name}: {source}: action_proprio_normalization_type {kind!r} is not supported; supported: {', '.join(KINDS)}"
        )
    return Training(source, None if kind is None else KINDS[kind], _crop_scale(_find(said, "image_augment_kwargs")))


def _crop_scale(augment: Any) -> tuple[float, float] | None:
    """Scale of the random crops of the first camera; None for other formats."""
    if isinstance(augment, list):  # by camera, primary first
        augment = augment[0] if augment else None
    if isinstance(augment, dict):
        augment = augment.get("primary", augment)
    crop = augment.get("random_resized_crop") if isinstance(augment, dict) else None
    scale = crop.get("scale") if isinstance(crop, dict) else None
    numbers = isinstance(scale, list) and len(scale) == 2 and all(isinstance(n, int | float) for n in scale)
    return (float(scale[0]), float(scale[1])) if numbers else None  # type: ignore[index]


def _find(values: Any, key: str) -> Any:
    """First value of a key at any depth, as its place differs between Octo's versions."""
    waiting = [values]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, dict):
            if key in node:
                return node[key]
            waiting += node.values()
    return None
