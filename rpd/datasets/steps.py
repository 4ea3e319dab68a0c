"""Training batches: single steps of any episodes, in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.demos.reader import Demos

MAX_BYTES = 2**32
"""Memory for tensors, unless told otherwise."""


class Rows:
    """Every step of the demonstrations is a row: the observation, and what was answered to it.

    What fits into `max_bytes` is held in memory, the smallest keys first, each as one tensor; what does not fit is read from
    the disk when it is asked for.

    Attributes:
        tensors: what is in memory, by key, [R, ...].
        episode: [R] int64, the number of each row's episode in `demos`.
        step: [R] int64, the control step of each row in its episode.

    Args:
        demos: where from.
        keys: what a batch holds, e.g. ``("image.front", "label")``; see `Demos.keys`.
        max_bytes: memory for tensors.
        frames: frames per image in a batch, as `envs.frames.FrameStack` shows them.
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

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, index: Tensor) -> TensorDict:
        """Return the rows [B] of `index` [B], an int64 tensor."""
        fields = {
            key: self._stack(key, index) if key.startswith("image.") and self.frames > 1 else self._get(key, index)
            for key in self.keys
        }
        return TensorDict(fields, batch_size=[len(index)])

    def instructions(self, index: Tensor) -> list[str]:
        """What the robot was told in each of the rows `index` [B]."""
        return [self.demos.episodes[i].instruction for i in self.episode[index].tolist()]

    def _get(self, key: str, index: Tensor) -> Tensor:
        return self.tensors[key][index] if key in self.tensors else self._read(key, index)

    def _stack(self, key: str, index: Tensor) -> Tensor:
        """The last frames of each row, the newest last; the first of an episode stands for those before it."""
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
        """Read rows from the disk, each episode's together."""
        episodes, steps = self.episode[index], self.step[index]
        rows: dict[int, Tensor] = {}
        for episode in episodes.unique().tolist():
            places = (episodes == episode).nonzero()[:, 0]
            found = torch.from_numpy(self.demos.read(episode, key, steps[places].tolist()))
            rows.update(zip(places.tolist(), found, strict=True))
        return torch.stack([rows[i] for i in range(len(index))])
