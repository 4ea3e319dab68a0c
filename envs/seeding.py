"""Random numbers as pure functions of an episode's seed: independent of order and number of calls."""

from __future__ import annotations

import numpy as np

_GOLDEN, _MASK = np.uint64(0x9E3779B97F4A7C15), np.uint64((1 << 62) - 1)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finalizer (Steele et al., 2014): a bijection of 64-bit integers with random-looking output."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def next_seed(seed: np.ndarray) -> np.ndarray:
    """Seeds [K] int64 of the following episodes, never negative."""
    with np.errstate(over="ignore"):
        return (_mix(seed.astype(np.uint64) + _GOLDEN) & _MASK).astype(np.int64)


def in_32_bits(seed: int) -> int:
    """Seed for generators that accept 32 bits, numpy's among them.

    Seeds of evaluations stay as they are; those of training, of 62 bits, are folded into [2^31, 2^32), so that none of them
    becomes the seed of an evaluation.
    """
    return seed if seed < 2**31 else 2**31 + seed % 2**31


def uniforms(seed: np.ndarray, count: int, stream: int | np.ndarray) -> np.ndarray:
    """`count` uniform numbers in [0, 1) per seed: [K, count]; streams (one, or one per seed [K]) are independent."""
    with np.errstate(over="ignore"):
        base = _mix(seed.astype(np.uint64) * np.uint64(2654435761) + np.asarray(stream, dtype=np.uint64) * _GOLDEN)
        bits = _mix(base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
