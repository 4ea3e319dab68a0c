"""Execute chunks of H actions as one action per control step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[Tensor], Tensor]
"""Rows [K] -> new chunks [K, H, A] of these environments."""


class Chunks(ABC):
    """Stores the chunks of N environments; row i is environment i in every call."""

    chunks: Tensor | None = None
    count: Tensor

    @abstractmethod
    def next(self, rows: int, device: torch.device, draw: Draw) -> Tensor:
        """Return the actions [N, A] of this step, for N = `rows` environments."""

    def reset(self, mask: Tensor) -> None:
        """Start new episodes where mask [N] is True."""
        if self.chunks is not None and len(mask) == len(self.count):
            self.count = self.count.masked_fill(mask, 0)
        else:
            self.chunks = None

    def state_dict(self) -> dict[str, Tensor]:
        """Stored chunks and counts."""
        return {} if self.chunks is None else {"chunks": self.chunks, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.chunks = state.get("chunks")
        self.count = state.get("count", torch.zeros(0))

    def _begin(self, rows: int, device: torch.device) -> bool:
        """Reset if nothing is stored for this number of environments; return whether all environments start new."""
        if self.chunks is not None and len(self.count) == rows:
            return False
        self.count = torch.zeros(rows, dtype=torch.long, device=device)
        return True


class RecedingHorizon(Chunks):
    """Execute the first `steps` actions of a chunk, then draw the next chunk.

    Attributes:
        chunks: [N, H, A] chunks in execution.
        count: [N] number of actions left to execute.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def next(self, rows: int, device: torch.device, draw: Draw) -> Tensor:
        """See `Chunks`."""
        begins = self._begin(rows, device)
        due = (self.count == 0).nonzero()[:, 0]
        if len(due):
            new = draw(due)
            old = new if begins or self.chunks is None else self.chunks
            self.chunks = old.index_copy(0, due, new)
            self.count = self.count.index_fill(0, due, self.steps)
        assert self.chunks is not None
        action = self.chunks[torch.arange(rows, device=device), self.steps - self.count]
        self.count = self.count - 1
        return action


class TemporalEnsemble(Chunks):
    """Average the predictions of the last H chunks for the current step (Zhao et al., 2023, section IV-B).

    The oldest has weight 1, the next exp(-k), and so on: with k > 0, newer chunks count less, as in the original.

    Attributes:
        chunks: [N, H, H, A], newest chunk first.
        count: [N] number of valid chunks.
    """

    def __init__(self, k: float) -> None:
        self.k = k

    def next(self, rows: int, device: torch.device, draw: Draw) -> Tensor:
        """See `Chunks`."""
        begins = self._begin(rows, device)
        new = draw(torch.arange(rows, device=device))
        horizon = new.shape[1]
        old = new[:, None].expand(-1, horizon, -1, -1) if begins or self.chunks is None else self.chunks
        self.chunks = torch.cat([new[:, None], old[:, :-1]], 1)
        self.count = (self.count + 1).clamp_max(horizon)
        ages = torch.arange(horizon, device=device)
        about_now = self.chunks[:, ages, ages]  # [N, H, A]: the chunk drawn `age` steps ago predicts now at index `age`
        newer = self.count[:, None] - 1 - ages  # [N, H]: 0 is the oldest
        weight = torch.exp(-self.k * newer) * (newer >= 0)
        return (weight[..., None] * about_now).sum(1) / weight.sum(1, keepdim=True)
