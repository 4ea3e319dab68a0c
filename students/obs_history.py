"""Sliding window over each environment's observations."""

from __future__ import annotations

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError


class History:
    """The last W observations; the first observation of an episode pads the steps before it, which are marked as padding.

    Row i is environment i in every call. With W = 1 nothing is stored.

    Args:
        window: time steps, W.
        where: the policy, for messages.
    """

    def __init__(self, window: int, where: str) -> None:
        self.window, self.where = window, where
        self.frames: dict[str, Tensor] = {}  # [N, W, ...] by key
        self.count: Tensor | None = None  # [N] observations seen in this episode

    def push(self, seen: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Append the observations [N, ...] of the current step, by key.

        Returns:
            [N, W, ...] by key, newest last, and a mask [N, W] bool of real (not padded) steps.

        Raises:
            ConfigError: the number of environments changed.
        """
        first = next(iter(seen.values()))
        rows, device = len(first), first.device
        if self.window == 1:
            return {key: value[:, None] for key, value in seen.items()}, torch.ones(rows, 1, dtype=torch.bool, device=device)
        if self.count is None:
            self.count = torch.zeros(rows, dtype=torch.long, device=device)
        if len(self.count) != rows:
            raise ConfigError(
                f"{self.where}: a window of {self.window} steps holds observations of {len(self.count)} environments, "
                f"but {rows} were passed"
            )
        for key, value in seen.items():
            new = value[:, None]
            old = self.frames.get(key, new.expand(-1, self.window, *value.shape[1:]))
            fresh = (self.count == 0).view(-1, *[1] * value.ndim)
            self.frames[key] = torch.where(fresh, new, torch.cat([old[:, 1:], new], 1))
        self.count = (self.count + 1).clamp_max(self.window)
        return self.frames, torch.arange(self.window, device=device) >= self.window - self.count[:, None]

    def reset(self, mask: Tensor) -> None:
        """Start new episodes where mask [N] is True."""
        if self.window > 1:
            if self.count is None or len(mask) != len(self.count):
                self.frames, self.count = {}, torch.zeros(len(mask), dtype=torch.long, device=mask.device)
            self.count = self.count.masked_fill(mask, 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Stored observations and counts."""
        return {} if self.count is None else {"count": self.count, **self.frames}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.frames = dict(state)
        self.count = self.frames.pop("count", None)
