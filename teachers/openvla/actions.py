"""Action tokens: bins of [-1, 1], and the statistics that make them actions of the robot.

The last `bins` entries of the vocabulary are the action tokens, the last of all the lowest action: column k, counted from
the lowest action, is token V - 1 - k. There are `bins` tokens but `bins` - 1 bins: the two highest columns share a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from envs.errors import ConfigError
from teachers.statistics import choose, normalised


class ActionBins:
    """Token ids to normalised actions and back.

    Args:
        vocab: V, without padding rows.
        bins: action tokens.

    Attributes:
        edges: [bins] ascending, of the bins in [-1, 1].
        centers: [bins - 1] the actions that they mean.
    """

    def __init__(self, vocab: int, bins: int) -> None:
        self.vocab, self.bins = vocab, bins
        self.edges = np.linspace(-1, 1, bins)
        self.centers = (self.edges[:-1] + self.edges[1:]) / 2

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Normalised actions of token ids, float64. Ids that are no action tokens get the nearest end, as in OpenVLA."""
        return self.centers[np.clip(self.vocab - np.asarray(tokens) - 1, 0, self.bins - 2)]

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids of normalised actions, which are clipped to [-1, 1]. Only 1 itself is the highest column."""
        return self.vocab - np.digitize(np.clip(actions, -1, 1), self.edges)


class ActionStatistics(BaseModel):
    """Of one data set's actions, one entry per dimension, in the units of the robot."""

    model_config = ConfigDict(extra="allow")

    q01: list[float]
    """1 % quantiles: what -1 means."""
    q99: list[float]
    """99 % quantiles: what +1 means."""
    mask: list[bool] | None = None
    """Dimensions that were normalised; None: all."""

    @property
    def dim(self) -> int:
        """Action dimensions D."""
        return len(self.q01)

    def unnormalize(self, normalized: np.ndarray) -> np.ndarray:
        """From [-1, 1] to the units of the robot, float64: [..., D] -> [..., D]. Dimensions outside the mask stay."""
        low, high = np.array(self.q01), np.array(self.q99)
        mask = normalised(self.mask, self.dim)
        return np.where(mask, 0.5 * (normalized + 1) * (high - low) + low, normalized)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """The inverse of `unnormalize`; a dimension without any range is 0."""
        low, high = np.array(self.q01), np.array(self.q99)
        mask = normalised(self.mask, self.dim)
        span = np.where(high > low, high - low, np.inf)
        return np.where(mask, 2 * (actions - low) / span - np.where(high > low, 1, 0), actions)


def select(statistics: Mapping[str, Any], key: str | None, where: str) -> tuple[str, ActionStatistics]:
    """Choose the statistics of one data set.

    Args:
        statistics: by data set, as in ``norm_stats``.
        key: ``unnorm_key``; None where there is only one.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: no such key, or none given where there are several: lists those that exist.
    """
    if not statistics:
        raise ConfigError(f"{where}: has no action statistics: no norm_stats, and no dataset_statistics.json")
    key = choose(statistics, key, where)
    try:
        chosen = ActionStatistics.model_validate(statistics[key]["action"])
    except (ValidationError, KeyError, TypeError):
        raise ConfigError(f"{where}: the action statistics of '{key}' need q01 and q99, lists of numbers") from None
    equal = chosen.dim == len(chosen.q99) == len(chosen.mask or chosen.q01)
    if not equal or not np.isfinite([chosen.q01, chosen.q99]).all():
        raise ConfigError(f"{where}: the action statistics of '{key}' need finite numbers, as many in q01 as in q99 and mask")
    return key, chosen
