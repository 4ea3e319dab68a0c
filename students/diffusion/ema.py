"""Exponential moving average of the network weights, used for evaluation and saving."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)
POWER = 0.75


class EMA(Generic[NetworkT]):
    """Exponential moving average with Diffusion Policy's warm-up: decay = min(limit, 1 - (1 + step)^-0.75).

    Args:
        network: what is averaged.
        limit: largest decay.
        shared: submodules that are not averaged: the average has those of `network` themselves, where there are any.

    Attributes:
        network: the averaged network, frozen.
    """

    def __init__(self, network: NetworkT, limit: float, shared: Sequence[str] = ()) -> None:
        self.network, self.limit = copy.deepcopy(network).eval().requires_grad_(False), limit
        for name in shared:
            setattr(self.network, name, getattr(network, name))

    def decay(self, step: int) -> float:
        """Weight of the old average at a step; 0 at the first step."""
        return min(self.limit, 1 - (1 + step) ** -POWER)

    @torch.no_grad()
    def update(self, network: NetworkT, step: int) -> None:
        """Add the weights after a step; the first step is 0."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - self.decay(step))
