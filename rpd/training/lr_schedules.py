"""Learning-rate schedules."""

from __future__ import annotations

import math

FINAL_RATE = 0.01
"""Factor of the learning rate at the end of the cosine schedule."""


def progress_rate(step: int, steps: int, warmup: int, anneal: bool = True) -> float:
    """Return the learning-rate factor at a step: linear warm-up over `warmup` steps, cosine to `FINAL_RATE` with `anneal`."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise if not anneal else rise * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))
