"""Statistics of features, in LeRobot's shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from rpd.datasets.episode import Array

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Stats = dict[str, list[Any]]


def vector_stats(values: Array) -> Stats:
    """Statistics of each entry of values [T] or [T, D]: lists of D numbers, and the count T."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    numbers = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    numbers |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {**{name: value.tolist() for name, value in numbers.items()}, "count": [len(rows)]}


def histogram(images: Array) -> Array:
    """Count the values of each channel of images [T, H, W, 3] uint8: [3, 256]."""
    return np.stack([np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(3)])


def image_stats(counts: Array, frames: int) -> Stats:
    """Statistics per channel, for values in [0, 1] with shape [3, 1, 1], from a `histogram` of `frames` images."""
    levels, total = np.arange(256) / 255, counts.sum(1)
    mean = counts @ levels / total
    below = counts.cumsum(1) / total[:, None]  # [3, 256], fraction of values up to each level
    numbers = {
        "min": levels[(counts > 0).argmax(1)],
        "max": levels[255 - (counts[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0)),
        **{name: levels[(below >= q).argmax(1)] for name, q in QUANTILES.items()},
    }
    return {**{name: value[:, None, None].tolist() for name, value in numbers.items()}, "count": [frames]}
