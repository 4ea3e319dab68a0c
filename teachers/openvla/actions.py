"""Action tokens: bins of [-1, 1], and the statistics that convert them to robot actions.

The last `bins` entries of the vocabulary are the action tokens, in descending order of actions: column k, counted from the
lowest action, is token V - 1 - k. There are `bins` tokens but `bins` - 1 bins: the two highest columns share a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla.config import CONFIG
from rpd.teachers.vla.normalization import FILE, check_span, choose, data_range, normalized_mask
from rpd.teachers.vla.reach import Reach


class ActionBins:
    """Convert between token ids and normalized actions.

    Args:
        vocab: vocabulary size V, without padding rows.
        bins: number of action tokens.

    Attributes:
        edges: [bins] ascending bin edges in [-1, 1].
        centers: [bins - 1] action of each bin.
    """

    def __init__(self, vocab: int, bins: int) -> None:
        self.vocab, self.bins = vocab, bins
        self.edges = np.linspace(-1, 1, bins)
        self.centers = (self.edges[:-1] + self.edges[1:]) / 2

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Normalized actions of token ids, float64. Ids of other tokens get the nearest end, as in OpenVLA."""
        return self.centers[np.clip(self.vocab - np.asarray(tokens) - 1, 0, self.bins - 2)]

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids of normalized actions, clipped to [-1, 1]. Only 1 itself is the highest column."""
        return self.vocab - np.digitize(np.clip(actions, -1, 1), self.edges)


class ActionStatistics(BaseModel):
    """Action statistics of one data set, one entry per dimension, in robot units."""

    model_config = ConfigDict(extra="allow")

    q01: list[float]
    """1 % quantiles, normalized to -1."""
    q99: list[float]
    """99 % quantiles, normalized to +1."""
    mask: list[bool] | None = None
    """Normalized dimensions; None: all."""

    @property
    def dim(self) -> int:
        """Number of action dimensions D."""
        return len(self.q01)

    def unnormalize(self, normalized: np.ndarray) -> np.ndarray:
        """Convert [-1, 1] to robot units, float64: [..., D] -> [..., D]. Dimensions outside of the mask are unchanged."""
        low, high = np.array(self.q01), np.array(self.q99)
        mask = normalized_mask(self.mask, self.dim)
        return np.where(mask, 0.5 * (normalized + 1) * (high - low) + low, normalized)

    def reach(self, ends: np.ndarray, source: str) -> Reach:
        """Action range of a model trained on these data, with normalized outputs limited to `ends` [2]."""
        low, high = self.unnormalize(np.repeat(ends[:, None], self.dim, 1))
        whole, mask = Reach(low, high, source), normalized_mask(self.mask, self.dim)
        seen = whole.within(*data_range(self, self.dim), source)
        return Reach(np.where(mask, whole.low, seen.low), np.where(mask, whole.high, seen.high), source)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Inverse of `unnormalize`; dimensions without range are 0."""
        low, high = np.array(self.q01), np.array(self.q99)
        mask = normalized_mask(self.mask, self.dim)
        span = np.where(high > low, high - low, np.inf)
        return np.where(mask, 2 * (actions - low) / span - np.where(high > low, 1, 0), actions)


def select(
    statistics: Mapping[str, Any], key: str | None, where: str, norm_stats: Mapping[str, Any] | None = None
) -> tuple[str, ActionStatistics]:
    """Choose the statistics of one data set.

    Args:
        statistics: statistics by data set; dataset_statistics.json takes precedence over config.json.
        key: ``unnorm_key``; None if there is only one data set.
        where: the checkpoint, for messages.
        norm_stats: statistics of config.json, for messages.

    Raises:
        ConfigError: unknown key, no key although there are several data sets (lists the keys), or statistics that are
        invalid or
            would mirror or freeze an axis (names the file).
    """
    if not statistics:
        raise ConfigError(f"{where}: has no action statistics: no norm_stats, and no dataset_statistics.json")
    key = choose(statistics, key, where)
    what = f"{where}: {CONFIG if statistics[key] is (norm_stats or {}).get(key) else FILE}: the action statistics of '{key}'"
    try:
        chosen = ActionStatistics.model_validate(statistics[key]["action"])
    except (ValidationError, KeyError, TypeError):
        raise ConfigError(f"{what} need q01 and q99, lists of numbers") from None
    equal = chosen.dim == len(chosen.q99) == len(chosen.q01 if chosen.mask is None else chosen.mask)
    if not equal or not chosen.dim or not np.isfinite([chosen.q01, chosen.q99]).all():
        raise ConfigError(f"{what} need finite numbers, as many in q01 as in q99 and mask")
    check_span(np.subtract(chosen.q99, chosen.q01), "q99 - q01", chosen.mask, what)
    return key, chosen
