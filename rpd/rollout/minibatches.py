"""Shuffled minibatches of a rollout whose environments are distributed over the ranks of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rpd.core.distributed import SOLO, World


@dataclass(frozen=True)
class Minibatch:
    """This rank's rows of one minibatch."""

    index: Tensor
    """[K] rows of the rank's batch; one arbitrary row if it has none of this minibatch."""
    fraction: float
    """Share of the minibatch's rows: the weight of a mean over them. 0: none."""


class Minibatches:
    """Draws the minibatches of an epoch from a flattened rollout [T x N].

    The permutation is over the rows of all ranks, drawn by each of them from generators in the same state, so that minibatches
    do not depend on the number of ranks. Minibatch sizes differ by at most one, and no row is dropped.

    Args:
        num_minibatches: minibatches per epoch.
        num_envs: environments N of this rank; of all ranks as many.
        world: the ranks.
    """

    def __init__(self, num_minibatches: int, num_envs: int = 1, world: World = SOLO) -> None:
        self.num_minibatches, self.num_envs, self.world = num_minibatches, num_envs, world

    def count(self, rows: int) -> int:
        """Number of minibatches of a batch with `rows` rows on this rank."""
        return min(self.num_minibatches, rows * self.world.size)

    def epoch(self, rows: int, generator: torch.Generator | None, device: torch.device) -> list[Minibatch]:
        """Draw the minibatches of one epoch. Synchronizes with the device once if there are several ranks.

        Args:
            rows: rows of this rank's batch, row t * N + n being step t of environment n.
            generator: generator of the permutation, on the batch's device.
            device: the batch's device.
        """
        order = torch.randperm(rows * self.world.size, generator=generator, device=device)
        parts = order.tensor_split(self.count(rows))
        if self.world.size == 1:
            return [Minibatch(part, 1.0) for part in parts]
        share = self.world.share(self.num_envs * self.world.size)
        step, env = order // share.total, order % share.total - share.first
        own = (env >= 0) & (env < share.count)
        counts = torch.stack([part.sum() for part in own.tensor_split(len(parts))]).tolist()
        index = (step * share.count + env)[own].split(counts)
        nothing = torch.zeros(1, dtype=torch.int64, device=device)
        return [
            Minibatch(mine if len(mine) else nothing, len(mine) / len(part)) for mine, part in zip(index, parts, strict=True)
        ]
