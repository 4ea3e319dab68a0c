"""What each environment showed in the last time steps."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.errors import ConfigError


class History:
    """The last W images of every camera; the first one stands for those before it, which are marked as padding.

    Row i is environment i in every call. With W = 1 nothing is remembered.

    Args:
        window: time steps, W.
        where: the teacher, for messages.
    """

    def __init__(self, window: int, where: str) -> None:
        self.window, self.where = window, where
        self.frames: dict[str, Tensor] = {}  # uint8 [N, W, H, H, 3] by camera
        self.count: Tensor | None = None  # [N] images seen in this episode

    def push(self, images: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Add images [N, H, H, 3] of the current step.

        Returns:
            [N, W, H, H, 3] by camera, the newest last, and which steps happened [N, W] bool.

        Raises:
            ConfigError: another number of environments than before.
        """
        first = next(iter(images.values()))
        rows, device = len(first), first.device
        if self.window == 1:
            return {key: image[:, None] for key, image in images.items()}, torch.ones(rows, 1, dtype=torch.bool, device=device)
        if self.count is None:
            self.count = torch.zeros(rows, dtype=torch.long, device=device)
        if len(self.count) != rows:
            raise ConfigError(
                f"teacher {self.where}: window={self.window} remembers what {len(self.count)} environments showed, but {rows} "
                "are asked about"
            )
        for key, image in images.items():
            new = image[:, None]
            old = self.frames.get(key, new.expand(-1, self.window, -1, -1, -1))
            fresh = (self.count == 0).view(-1, 1, 1, 1, 1)
            self.frames[key] = torch.where(fresh, new, torch.cat([old[:, 1:], new], 1))
        self.count = (self.count + 1).clamp_max(self.window)
        return self.frames, torch.arange(self.window, device=device) >= self.window - self.count[:, None]

    def forget(self, mask: Tensor) -> None:
        """Begin new episodes where mask [N] is True."""
        if self.window > 1:
            count = torch.zeros(len(mask), dtype=torch.long, device=mask.device) if self.count is None else self.count
            self.count = count.masked_fill(mask, 0) if len(mask) == len(count) else torch.zeros_like(mask, dtype=torch.long)

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered."""
        return {} if self.count is None else {"count": self.count, **self.frames}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.frames = dict(state)
        self.count = self.frames.pop("count", None)
