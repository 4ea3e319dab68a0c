"""Training data of a diffusion policy: windows of observations and the chunks of actions that follow."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict

from rpd.datasets.behavior_cloning import DemoSource
from rpd.datasets.corrections import steps_ahead
from rpd.students.row_share import RowShare


class ChunkSource:
    """Draws windows of observations with chunks of actions.

    At the start of an episode the first observation is repeated, at its end the last action, as in Diffusion Policy; likewise
    at the end of a correction by an operator.

    Args:
        source: demonstrations.
        n_obs: observations per window.
        horizon: actions per chunk.

    Attributes:
        actions: [R, A] labels of all rows.
    """

    def __init__(self, source: DemoSource, n_obs: int, horizon: int) -> None:
        self.source = source
        demos = source.rows.demos
        labels = [demos.read(i, "label")[: episode.length] for i, episode in enumerate(demos.episodes)]
        self.actions = torch.from_numpy(np.concatenate(labels)).clamp(-1, 1)
        self._back, self._ahead = torch.arange(n_obs).flip(0), torch.arange(horizon)
        ahead = [steps_ahead(demos.demonstrated(i)) for i in range(len(demos))]
        self._left = torch.from_numpy(np.concatenate(ahead))  # [R] demonstrated steps that follow in the episode

    def draw(self, share: RowShare) -> TensorDict:
        """Draw a process's share of rows [count] with replacement, see `DemoSource.indices`.

        Returns:
            ``obs`` [count, n_obs, ...] by key, the newest last, and ``actions`` [count, horizon, A], the first of which labels
            the newest observation.
        """
        index = self.source.indices(share)[:, None]
        seen = index - self._back.minimum(self.source.rows.step[index])  # [count, n_obs]
        rows = self.source.rows[seen.flatten()].exclude("label")
        rows["state"] = rows["state"][:, self.source.columns]
        window = {str(key): rows[key].unflatten(0, seen.shape) for key in rows.keys()}  # noqa: SIM118
        actions = self.actions[index + self._ahead.minimum(self._left[index])]
        return TensorDict({"obs": window, "actions": actions}, batch_size=[share.count]).to(self.source.generator.device)
