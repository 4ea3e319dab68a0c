"""Interquartile mean of several training runs, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rpd.core.bootstrap import RESAMPLES, Counts, resampled_rates


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the values without the lowest and the highest quarter (Agarwal et al., 2021, arXiv:2108.13264).

    A quarter is rounded down, as in the paper's code: with fewer than 4 values this is their mean.

    Args:
        values: one per run, e.g. its success rate.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("the interquartile mean needs a value")
    return float(_trimmed_mean(np.asarray(values, float)[None])[0])


def interquartile_interval(
    strata: Sequence[Sequence[Counts]], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the interquartile mean over all runs: bootstrap of the runs of each task and of their episodes.

    Args:
        strata: successes and episodes of the runs, per task.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        None if a task has fewer than two runs, which leaves nothing to resample.
    """
    if not strata or min(map(len, strata)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = [resampled_rates(runs, resamples, rng)[0] for runs in strata]
    low, high = np.quantile(_trimmed_mean(np.concatenate(drawn, axis=1)), (0.025, 0.975))
    return float(low), float(high)


def _trimmed_mean(rows: np.ndarray) -> np.ndarray:
    """Mean of the middle half of each row [R, N] -> [R]."""
    cut = rows.shape[1] // 4
    middle: np.ndarray = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(1)
    return middle
