"""Replay buffer of observations, for training state estimators."""

from __future__ import annotations

from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.rollout.batch import take


class Replay:
    """Uniform sample of all observations so far.

    Reservoir sampling (Vitter, 1985, algorithm R). A batch of 25 steps from 128 environments has fewer than 200
    distinct scenes: without replay, an image encoder overfits to each batch in turn.
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        """Keep at most `capacity` observations, drawn with `generator`, which must be on their device."""
        self.capacity, self.generator = capacity, generator
        self.seen = 0
        """Number of observations offered so far."""
        self.rows = TensorDict()
        """The kept observations, [min(seen, capacity)]."""
        self._store: TensorDict | None = None  # [capacity]; `rows` is a view of it

    def add(self, obs: TensorDict) -> None:
        """Offer observations [M] to the sample."""
        count, device = obs.batch_size[0], self.generator.device
        if self._store is None:
            self._store = obs.new_zeros(torch.Size([self.capacity]))
        # Row t is assigned a random slot of t + 1, and dropped if the slot exceeds the capacity.
        t = torch.arange(self.seen, self.seen + count, device=device)
        drawn = torch.rand(count, generator=self.generator, device=device, dtype=torch.float64)
        slot = torch.where(t < self.capacity, t, (drawn * (t + 1)).long())
        kept = (slot < self.capacity).nonzero()[:, 0]
        self._store[slot[kept]] = obs[kept]
        self.seen += count
        self.rows = self._store[: min(self.seen, self.capacity)]

    def sample(self, count: int) -> TensorDict:
        """Draw `count` rows with replacement."""
        index = torch.randint(len(self.rows), (count,), generator=self.generator, device=self.generator.device)
        return take(self.rows, index)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the kept observations and the count, for a checkpoint."""
        if self._store is None:
            return {}
        return {"seen": torch.tensor(self.seen), **{f"rows.{name}": cast("Tensor", rows) for name, rows in self.rows.items()}}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore the result of `state_dict` on `device`."""
        if not state:
            return
        fields = {name.removeprefix("rows."): value.to(device) for name, value in state.items() if name != "seen"}
        self.seen = int(state["seen"])
        rows = TensorDict(fields, batch_size=[min(self.seen, self.capacity)])
        self._store = rows.new_zeros(torch.Size([self.capacity]))
        self._store[: len(rows)] = rows
        self.rows = self._store[: len(rows)]
