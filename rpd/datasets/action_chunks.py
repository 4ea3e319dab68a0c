"""Demonstrations as what a diffusion policy learns from: the last observations, and the actions that follow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rpd.imitation import DemoSource


class ChunkSource:
    """Draws windows of observations with chunks of actions.

    Before the first observation of an episode stands the first, after its last action the last, as in Diffusion Policy.

    Args:
        source: where rows come from.
        n_obs: observations per window.
        horizon: actions per chunk.

    Attributes:
        actions: [R, A] the label of every row.
    """

    def __init__(self, source: DemoSource, n_obs: int, horizon: int) -> None:
        self.source = source
        demos = source.rows.demos
        labels = [demos.read(i, "label")[: episode.length] for i, episode in enumerate(demos.episodes)]
        self.actions = torch.from_numpy(np.concatenate(labels)).clamp(-1, 1)
        self._back, self._ahead = torch.arange(n_obs).flip(0), torch.arange(horizon)
        self._left = torch.cat([torch.arange(len(part)).flip(0) for part in labels])  # [R] steps that follow in the episode

    @property
    def states(self) -> Tensor:
        """[R, S] the state of every row, as the environment has it."""
        return self.source.rows[torch.arange(len(self.source.rows))]["state"][:, self.source.columns]

    def draw(self, count: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draw with replacement.

        Returns:
            Observations [count, n_obs, ...] by key, the newest last, and actions [count, horizon, A], the first being the
            answer to the newest.
        """
        generator = self.source.generator
        index = torch.randint(len(self.source.rows), (count, 1), generator=generator, device=generator.device).cpu()
        seen = index - self._back.minimum(self.source.rows.step[index])  # [count, n_obs]
        rows = self.source.rows[seen.flatten()].exclude("label")
        rows["state"] = rows["state"][:, self.source.columns]
        window = {str(key): rows[key].unflatten(0, seen.shape).to(generator.device) for key in rows.keys()}  # noqa: SIM118
        actions = self.actions[index + self._ahead.minimum(self._left[index])]
        return window, actions.to(generator.device)
