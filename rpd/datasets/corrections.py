"""Sampling of demonstrations that include corrections of a policy by an operator."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from rpd.datasets.episode import Array
from rpd.datasets.reader import Demos
from rpd.envs.errors import ConfigError

LOG = logging.getLogger(__name__)


def probabilities(demos: Demos, fraction: float) -> Tensor | None:
    """Probability of each row [R] float64 to be drawn; None: all the same.

    The policy's own steps are never drawn, as in HG-DAgger (Kelly et al. 2019, algorithm 1). If there are other demonstrations,
    corrections are a fixed fraction of the draws, as in Intervention Weighted Regression (Mandlekar et al. 2020): they are few,
    and show the states in which the policy failed.

    Args:
        demos: demonstrations, and records of policies under supervision.
        fraction: fraction of the draws that are corrections, if there are others.

    Raises:
        ConfigError: no operator has corrected anything, and there are no other demonstrations.
    """
    supervised = [demos.is_supervised(i) for i in range(len(demos))]
    if not any(supervised):
        return None
    taught = np.concatenate([demos.demonstrated(i) for i in range(len(demos))])
    correction = taught & np.repeat(supervised, [episode.length for episode in demos.episodes])
    other, corrections = int((taught & ~correction).sum()), int(correction.sum())
    if not corrections and not other:
        raise ConfigError("the records of a policy under supervision have no corrections: its operator never took over")
    LOG.info(
        f"{corrections:,} steps are corrections by an operator, {other:,} other demonstrations; {(~taught).sum():,} unused"
    )
    share = 1.0 if not other else fraction if corrections else 0.0
    weights = np.where(correction, share / max(corrections, 1), (1 - share) / max(other, 1)) * taught
    return torch.from_numpy(weights)


def steps_ahead(demonstrated: Array) -> Array:
    """Number of steps [T] that follow each step of an episode and are demonstrations without a gap.

    Args:
        demonstrated: [T] bool, see `Demos.demonstrated`.
    """
    ahead = np.zeros(len(demonstrated), dtype=np.int64)
    for t in range(len(demonstrated) - 2, -1, -1):
        ahead[t] = ahead[t + 1] + 1 if demonstrated[t + 1] else 0
    return ahead
