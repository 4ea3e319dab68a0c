"""Action statistics: conversion of normalized actions to the units of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rpd.envs.errors import ConfigError
from rpd.teachers.vla.normalization import FILE, check_span, choose, data_range, normalized_mask
from rpd.teachers.vla.reach import Reach

Normalization = Literal["normal", "bounds"]


class ActionStatistics(BaseModel):
    """Action statistics of one data set, one entry per dimension."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    mean: list[float]
    std: list[float]
    p01: list[float] | None = None
    """1 % quantiles; only needed for bounds."""
    p99: list[float] | None = None
    mask: list[bool] | None = None
    """Normalized dimensions; None: all."""

    @property
    def dim(self) -> int:
        """Number of the embodiment's action dimensions."""
        return len(self.mean)

    def affine(self, kind: Normalization) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset from normalized actions to the data's units, float64 [dim] each.

        Args:
            kind: normal: mean 0 and standard deviation 1; bounds: the 1 % and 99 % quantiles are -1 and 1.
        """
        if kind == "normal":
            gain, offset = np.array(self.std), np.array(self.mean)
        else:  # (x + 1) (p99 - p01) / 2 + p01
            low, high = np.array(self.p01), np.array(self.p99)
            gain, offset = (high - low) / 2, (high + low) / 2
        mask = normalized_mask(self.mask, self.dim)
        return np.where(mask, gain, 1.0), np.where(mask, offset, 0.0)

    def reach(self, kind: Normalization, ends: tuple[float, float], source: str) -> Reach:
        """Action range of a model trained on these data, with normalized outputs limited to `ends`."""
        gain, offset = self.affine(kind)
        low, high = np.sort(offset + np.outer(ends, gain), axis=0)
        return Reach(low, high, source).within(*data_range(self, self.dim), source)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Normalize actions [..., dim] in the data's units as in the original's training: (a - mean) / (std + 1e-8)."""
        gain, offset = self.affine("normal")
        return (actions - offset) / np.where(normalized_mask(self.mask, self.dim), gain + 1e-8, 1.0)


def select(statistics: Mapping[str, Any], key: str | None, kind: Normalization, where: str) -> tuple[str, ActionStatistics]:
    """Choose the statistics of one data set.

    Args:
        statistics: dataset_statistics.json: by data set, or, after fine-tuning on one data set, its statistics without a name.
        key: the data set; None if there is only one.
        kind: normalization of the actions.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: unknown key, or no key although there are several data sets; lists the keys.
    """
    if not statistics:
        raise ConfigError(f"{where}: has no action statistics: dataset_statistics.json is missing")
    if "action" in statistics:  # without a name
        if key is not None:
            raise ConfigError(f"{where}: has the statistics of one data set, without a name: leave out unnorm_key={key}")
        return "the only data set", _parse(statistics["action"], kind, f"{where}: {FILE}: the action statistics")
    key = choose(statistics, key, where)
    found = statistics[key]
    return key, _parse(
        found.get("action") if isinstance(found, dict) else None, kind, f"{where}: {FILE}: the action statistics of '{key}'"
    )


def _parse(values: Any, kind: Normalization, what: str) -> ActionStatistics:
    fields = ("mean", "std") if kind == "normal" else ("p01", "p99")
    try:
        chosen = ActionStatistics.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    masked = chosen.mean if chosen.mask is None else chosen.mask
    lengths = {len(getattr(chosen, field) or []) for field in (*fields, "mean")} | {len(masked)}
    if lengths != {chosen.dim} or not chosen.dim:
        raise ConfigError(f"{what} need as many numbers in {' as in '.join(fields)} and mask")
    check_span(chosen.affine(kind)[0], "std" if kind == "normal" else "(p99 - p01) / 2", chosen.mask, what)
    return chosen
