"""dataset_statistics.json: action statistics by data set; the entries depend on the family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from rpd.envs.errors import ConfigError, unknown_name
from rpd.students.io.untrusted import read_object

FILE = "dataset_statistics.json"
LOWS, HIGHS = ("min", "q01", "p01"), ("max", "q99", "p99")
BINARY = 1e-2
"""Tolerance for the variance m (1 - m) of data that are only 0 and 1."""


def read(folder: Path) -> dict[str, Any]:
    """Read the file in a checkpoint folder; empty if it does not exist.

    Raises:
        ConfigError: the file is damaged.
    """
    return read_object(folder / FILE) if (folder / FILE).is_file() else {}


def write(statistics: Mapping[str, Any]) -> bytes:
    """Encode statistics as the content of the file."""
    return (json.dumps(dict(statistics), indent=2) + "\n").encode()


def choose(statistics: Mapping[str, Any], key: str | None, where: str) -> str:
    """Choose the statistics of a data set.

    Args:
        statistics: statistics by data set, at least one.
        key: ``unnorm_key``; None if there is only one data set.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: unknown key, or no key although there are several data sets; lists the keys.
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


def check_span(span: np.ndarray, name: str, mask: list[bool] | None, what: str) -> None:
    """Refuse statistics that would mirror or freeze an axis.

    Args:
        span: difference between normalized 1 and normalized 0 or -1, in the data's units [dim].
        name: how the span is computed, e.g. ``"q99 - q01"``.
        mask: see `normalized_mask`.
        what: source of the statistics, for messages.

    Raises:
        ConfigError: a normalized dimension has a span of 0 or less; names the dimension.
    """
    bad = np.flatnonzero(normalized_mask(mask, len(span)) & ~(span > 0))
    if len(bad):
        value = span[bad[0]]
        how = "mirror it" if value < 0 else "freeze it: if that is intended, its mask must be false"
        raise ConfigError(f"{what}: {name} of dimension {bad[0]} is {value:g}, which would {how}")


def normalized_mask(mask: list[bool] | None, dim: int) -> np.ndarray:
    """Mask of normalized dimensions, bool [dim]; a mask of None means all."""
    return np.ones(dim, bool) if mask is None else np.array(mask)


def data_range(values: BaseModel, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of a data set's actions, float64 [dim] each; infinite if unknown.

    Combines all available statistics: extremes, and 1 % and 99 % quantiles under either name. Without any, binary data are
    detected by their variance, m (1 - m).

    Args:
        values: statistics of a family, with additional entries of the file.
        dim: action dimensions.
    """
    lows, highs = ([array for name in names if (array := _numbers(values, name, dim)) is not None] for names in (LOWS, HIGHS))
    low = np.minimum.reduce(lows) if lows else np.full(dim, -np.inf)
    high = np.maximum.reduce(highs) if highs else np.full(dim, np.inf)
    if not (lows and highs) and (binary := _binary(values, dim)) is not None:
        low, high = np.where(binary, 0.0, low), np.where(binary, 1.0, high)
    return low, high


def _binary(values: BaseModel, dim: int) -> np.ndarray | None:
    """Mask [dim] of data that are only 0 and 1: no other numbers between 0 and 1 have such a large variance."""
    mean, std = _numbers(values, "mean", dim), _numbers(values, "std", dim)
    if mean is None or std is None:
        return None
    return (mean > 0) & (mean < 1) & (np.abs(std**2 - mean * (1 - mean)) < BINARY)


def _numbers(values: BaseModel, name: str, dim: int) -> np.ndarray | None:
    """One entry as float64 [dim]; None if missing or not finite."""
    try:
        array = np.array(getattr(values, name, None), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (dim,) and bool(np.isfinite(array).all()) else None
