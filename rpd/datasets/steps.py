"""Random access to single steps of demonstrations, for training batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.datasets.reader import Demos

MAX_BYTES = 2**32
"""Default memory for tensors, bytes."""


class Rows:
    """Rows of demonstrations: one row per control step, with its observation and label.

    Keys that fit into `max_bytes` are held in memory, the smallest first, each as one tensor; the others are read from disk on
    access.

    Attributes:
        tensors: keys in memory, [R, ...].
        episode: [R] int64, index of each row's episode in `demos`.
        step: [R] int64, control step of each row in its episode.

    Args:
        demos: demonstrations.
        keys: keys of a batch, e.g. ``("image.front", "label")``; see `Demos.keys`.
        max_bytes: memory for tensors, bytes.
        frames: stacked frames per image, as in `rpd.envs.wrappers.frame_stack.FrameStack`.
    """

    def __init__(self, demos: Demos, keys: Sequence[str], max_bytes: int = MAX_BYTES, frames: int = 1) -> None:
        self.demos, self.keys, self.frames = demos, tuple(keys), frames
        lengths = torch.tensor([episode.length for episode in demos.episodes])
        self.episode = torch.arange(len(lengths)).repeat_interleave(lengths)
        self.step = torch.cat([torch.arange(int(n)) for n in lengths])
        samples = {key: torch.from_numpy(demos.read(0, key, [0])) for key in self.keys}  # [1, ...]
        self.tensors: dict[str, Tensor] = {}
        for key, sample in sorted(samples.items(), key=lambda item: item[1].nbytes):
            max_bytes -= sample.nbytes * len(self)
            if max_bytes < 0:
                break
            self.tensors[key] = sample.new_empty(len(self), *sample.shape[1:])
            self._load(key, self.tensors[key])
        for key in samples.keys() - self.tensors.keys():
            if samples[key].is_floating_point():  # validate now, not on access
                for i in range(len(demos)):
                    demos.read(i, key)

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, index: Tensor) -> TensorDict:
        """Return rows [B] for `index` [B], an int64 tensor."""
        fields = {
            key: self._stack(key, index) if key.startswith("image.") and self.frames > 1 else self._get(key, index)
            for key in self.keys
        }
        return TensorDict(fields, batch_size=[len(index)])

    def column(self, key: str) -> Tensor:
        """Return all rows of one key [R, ...], images without their past."""
        return self._get(key, torch.arange(len(self)))

    def instructions(self, index: Tensor) -> list[str]:
        """Instructions of the rows `index` [B]."""
        return [self.demos.episodes[i].instruction for i in self.episode[index].tolist()]

    def _get(self, key: str, index: Tensor) -> Tensor:
        return self.tensors[key][index] if key in self.tensors else self._read(key, index)

    def _stack(self, key: str, index: Tensor) -> Tensor:
        """Last frames of each row, the newest last; the first frame of an episode is repeated before its start."""
        ago = torch.arange(self.frames - 1, -1, -1)
        rows = index[:, None] - ago.minimum(self.step[index, None])  # [B, K]
        return torch.cat([self._get(key, column) for column in rows.unbind(1)], dim=-1)

    def _load(self, key: str, into: Tensor) -> None:
        """Read every row of a key."""
        first = 0
        for i, episode in enumerate(self.demos.episodes):
            into[first : first + episode.length] = torch.from_numpy(self.demos.read(i, key)[: episode.length])
            first += episode.length

    def _read(self, key: str, index: Tensor) -> Tensor:
        """Read rows from disk, grouped by episode."""
        episodes, steps = self.episode[index], self.step[index]
        rows: dict[int, Tensor] = {}
        for episode in episodes.unique().tolist():
            places = (episodes == episode).nonzero()[:, 0]
            found = torch.from_numpy(self.demos.read(episode, key, steps[places].tolist()))
            rows.update(zip(places.tolist(), found, strict=True))
        return torch.stack([rows[i] for i in range(len(index))])
