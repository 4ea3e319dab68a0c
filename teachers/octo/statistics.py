"""Action statistics: what normalised actions mean in the units of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from envs.errors import ConfigError
from teachers.statistics import choose, normalised

Normalization = Literal["normal", "bounds"]


class ActionStatistics(BaseModel):
    """Of one data set's actions, one entry per dimension."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    mean: list[float]
    std: list[float]
    p01: list[float] | None = None
    """1 % quantiles; only bounds need them."""
    p99: list[float] | None = None
    mask: list[bool] | None = None
    """Dimensions that were normalised; None: all."""

    @property
    def dim(self) -> int:
        """Action dimensions of the embodiment."""
        return len(self.mean)

    def affine(self, kind: Normalization) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset from normalised actions to the data's units, float64 [dim] each.

        Args:
            kind: normal: 0 is the mean and 1 a standard deviation from it; bounds: -1 and 1 are the 1 % and 99 % quantiles.
        """
        if kind == "normal":
            gain, offset = np.array(self.std), np.array(self.mean)
        else:  # (x + 1) (p99 - p01) / 2 + p01
            low, high = np.array(self.p01), np.array(self.p99)
            gain, offset = (high - low) / 2, (high + low) / 2
        mask = normalised(self.mask, self.dim)
        return np.where(mask, gain, 1.0), np.where(mask, offset, 0.0)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., dim] in the data's units as the original normalises them in training: (a - mean) / (std + 1e-8)."""
        gain, offset = self.affine("normal")
        return (actions - offset) / np.where(normalised(self.mask, self.dim), gain + 1e-8, 1.0)


def select(statistics: Mapping[str, Any], key: str | None, kind: Normalization, where: str) -> tuple[str, ActionStatistics]:
    """Choose the statistics of one data set.

    Args:
        statistics: dataset_statistics.json: by data set, or, after fine-tuning on one, that one's without a name.
        key: the data set; None where there is only one.
        kind: how actions were normalised.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: no such data set, or none given where there are several: lists those that exist.
    """
    if not statistics:
        raise ConfigError(f"{where}: has no action statistics: dataset_statistics.json is missing")
    if "action" in statistics:  # flat
        if key is not None:
            raise ConfigError(f"{where}: has the statistics of one data set, without a name: leave out unnorm_key={key}")
        return "the only data set", _parse(statistics["action"], kind, f"{where}: the action statistics")
    key = choose(statistics, key, where)
    found = statistics[key]
    return key, _parse(
        found.get("action") if isinstance(found, dict) else None, kind, f"{where}: the action statistics of '{key}'"
    )


def _parse(values: Any, kind: Normalization, what: str) -> ActionStatistics:
    fields = ("mean", "std") if kind == "normal" else ("p01", "p99")
    try:
        chosen = ActionStatistics.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    lengths = {len(getattr(chosen, field) or []) for field in (*fields, "mean")} | {len(chosen.mask or chosen.mean)}
    if lengths != {chosen.dim} or not chosen.dim:
        raise ConfigError(f"{what} need as many numbers in {' as in '.join(fields)} and mask")
    return chosen
