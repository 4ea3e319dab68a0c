"""An average of a network's weights over its training: what is evaluated and saved."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)
POWER = 0.75


class Average(Generic[NetworkT]):
    """Exponential moving average, whose memory grows as Diffusion Policy's: decay = min(limit, 1 - (1 + step)^-0.75).

    Attributes:
        network: the average, frozen.
    """

    def __init__(self, network: NetworkT, limit: float) -> None:
        self.network, self.limit = copy.deepcopy(network).eval().requires_grad_(False), limit

    def decay(self, step: int) -> float:
        """How much of the average stays at a step; 0 at the first."""
        return min(self.limit, 1 - (1 + step) ** -POWER)

    @torch.no_grad()
    def update(self, network: NetworkT, step: int) -> None:
        """Take in the weights after a step, the first being 0."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - self.decay(step))
