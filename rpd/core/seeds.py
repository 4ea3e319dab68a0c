"""Seed ranges of training and evaluation episodes."""

from __future__ import annotations

# Far apart, so that training never uses an episode of an evaluation.
CURVE_SEED, FINAL_SEED, TRAIN_SEED = 1_000_000, 2_000_000, 10_000_000

# Those of `rpd tune`, apart from all others: a setting must not be chosen on the seeds that it is reported on. Training
# seeds below 428 keep the seeds of training episodes within the 32 bits of some simulators.
TUNING_SEED, MAX_TUNING_SEEDS = 300, 100
TUNING_OFFSET = 6_000_000
