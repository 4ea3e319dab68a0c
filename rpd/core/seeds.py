"""Seed ranges of training and evaluation episodes."""

from __future__ import annotations

# Far apart, so that training never uses an episode of an evaluation.
CURVE_SEED, FINAL_SEED, TRAIN_SEED = 1_000_000, 2_000_000, 10_000_000
