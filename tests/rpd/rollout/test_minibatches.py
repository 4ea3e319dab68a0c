"""Minibatches of two ranks are those of one, divided by environment."""

import pytest
import torch

from rpd.core.distributed import SOLO, World
from rpd.rollout.minibatches import Minibatches

CPU = torch.device("cpu")
STEPS, ENVS = 3, 4


def epoch(world, splits):
    """Global rows (step, environment) of each minibatch, and the fractions."""
    envs = ENVS // world.size
    drawn = Minibatches(splits, envs, world).epoch(STEPS * envs, torch.Generator().manual_seed(0), CPU)
    rows = [[(int(i) // envs, int(i) % envs + world.rank * envs) for i in part.index] for part in drawn]
    return rows, [part.fraction for part in drawn]


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_ranks_divide_the_minibatches_of_one_rank(splits):
    whole, fractions = epoch(SOLO, splits)
    assert fractions == [1.0] * splits and sorted(row for rows in whole for row in rows) == [
        (t, e) for t in range(STEPS) for e in range(ENVS)
    ]
    parts = [epoch(World(rank, 2), splits) for rank in (0, 1)]
    for number, rows in enumerate(whole):
        own = [part[number] if part_fractions[number] else [] for part, part_fractions in parts]
        assert sorted(own[0] + own[1]) == sorted(rows)
        assert [f[number] for _, f in parts] == [len(o) / len(rows) for o in own]


def test_a_rank_without_rows_has_one_of_weight_zero():
    drawn = [Minibatches(STEPS * ENVS, 2, World(r, 2)).epoch(STEPS * 2, torch.Generator().manual_seed(0), CPU) for r in (0, 1)]
    for first, second in zip(*drawn, strict=True):
        assert sorted((first.fraction, second.fraction)) == [0.0, 1.0] and len(first.index) == len(second.index) == 1
