"""dataset_statistics.json: what normalised actions mean, by data set. What the entries hold is up to each family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import ConfigError, unknown_name

FILE = "dataset_statistics.json"


def read(folder: Path) -> dict[str, Any]:
    """Read the file of a checkpoint's folder; empty where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    if not (folder / FILE).is_file():
        return {}
    try:
        return dict(json.loads((folder / FILE).read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder / FILE}: not valid JSON ({error}): truncated or altered?") from None


def write(statistics: Mapping[str, Any]) -> bytes:
    """The content of such a file."""
    return (json.dumps(dict(statistics), indent=2) + "\n").encode()


def choose(statistics: Mapping[str, Any], key: str | None, where: str) -> str:
    """Choose a data set.

    Args:
        statistics: by data set, at least one.
        key: ``unnorm_key``; None where there is only one.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: no such data set, or none given where there are several: lists those that exist.
    """
    if key is None and len(statistics) > 1:
        raise ConfigError(
            f"{where}: has action statistics of {len(statistics)} data sets: add unnorm_key=, "
            f"one of {', '.join(sorted(statistics))}"
        )
    key = next(iter(statistics)) if key is None else key
    if key not in statistics:
        raise unknown_name(f"unnorm_key of {where}", key, statistics)
    return key


def normalised(mask: list[bool] | None, dim: int) -> np.ndarray:
    """Which of `dim` dimensions were normalised, bool [dim]; a mask of None means all."""
    return np.ones(dim, bool) if mask is None else np.array(mask)
