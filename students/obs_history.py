"""What each environment showed in the last time steps."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.errors import ConfigError


class History:
    """The last W observations; the first of an episode stands for those before it, which are marked as padding.

    Row i is environment i in every call. With W = 1 nothing is remembered.

    Args:
        window: time steps, W.
        where: the policy, for messages.
    """

    def __init__(self, window: int, where: str) -> None:
        self.window, self.where = window, where
        self.frames: dict[str, Tensor] = {}  # [N, W, ...] by key
        self.count: Tensor | None = None  # [N] observations seen in this episode

    def push(self, seen: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Add the observations [N, ...] of the current step, by key.

        Returns:
            [N, W, ...] by key, the newest last, and which steps happened [N, W] bool.

        Raises:
            ConfigError: another number of environments than before.
        """
        first = next(iter(seen.values()))
        rows, device = len(first), first.device
        if self.window == 1:
            return {key: value[:, None] for key, value in seen.items()}, torch.ones(rows, 1, dtype=torch.bool, device=device)
        if self.count is None:
            self.count = torch.zeros(rows, dtype=torch.long, device=device)
        if len(self.count) != rows:
            raise ConfigError(
                f"{self.where}: a window of {self.window} remembers what {len(self.count)} environments showed, but {rows} "
                "are asked about"
            )
        for key, value in seen.items():
            new = value[:, None]
            old = self.frames.get(key, new.expand(-1, self.window, *value.shape[1:]))
            fresh = (self.count == 0).view(-1, *[1] * value.ndim)
            self.frames[key] = torch.where(fresh, new, torch.cat([old[:, 1:], new], 1))
        self.count = (self.count + 1).clamp_max(self.window)
        return self.frames, torch.arange(self.window, device=device) >= self.window - self.count[:, None]

    def forget(self, mask: Tensor) -> None:
        """Begin new episodes where mask [N] is True."""
        if self.window > 1:
            if self.count is None or len(mask) != len(self.count):
                self.frames, self.count = {}, torch.zeros(len(mask), dtype=torch.long, device=mask.device)
            self.count = self.count.masked_fill(mask, 0)

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered."""
        return {} if self.count is None else {"count": self.count, **self.frames}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.frames = dict(state)
        self.count = self.frames.pop("count", None)
