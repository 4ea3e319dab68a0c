"""Randomness as pure functions of an episode's seed: the same numbers wherever and however often they are asked for."""

from __future__ import annotations

import numpy as np

_GOLDEN, _MASK = np.uint64(0x9E3779B97F4A7C15), np.uint64((1 << 62) - 1)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): a bijection of 64-bit integers that looks random."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def next_seed(seed: np.ndarray) -> np.ndarray:
    """Seed of the episode that follows [K] int64, never negative."""
    with np.errstate(over="ignore"):
        return (_mix(seed.astype(np.uint64) + _GOLDEN) & _MASK).astype(np.int64)


def uniforms(seed: np.ndarray, count: int, stream: int | np.ndarray) -> np.ndarray:
    """`count` numbers in [0, 1) per seed [K, count]; different streams (one for all, or one each, [K]) are independent."""
    with np.errstate(over="ignore"):
        base = _mix(seed.astype(np.uint64) * np.uint64(2654435761) + np.asarray(stream, dtype=np.uint64) * _GOLDEN)
        bits = _mix(base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
