"""What specialists say, as files and as balanced batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError, RunFault
from rpd.batch import joined, take
from students.bodies import Body
from students.files import write_bytes
from students.generalist import BODY

STORED = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Recording:
    """One file: the steps [M] of a cell in a stage."""

    rows: TensorDict
    """``state`` [M, S'] (only what is read), images, ``mean`` and ``std`` [M, A'] in the robot's own range, ``success`` [M]."""
    solved: int
    """Episodes that were solved by who played."""
    episodes: int
    size: int
    """Bytes."""


def write(path: Path, rows: TensorDict, solved: int, episodes: int, storage: str, names: Sequence[str]) -> None:
    """Write a recording as safetensors, with the names of its state entries; atomically.

    Raises:
        RunFault: a number is too large for float16.
    """
    tensors = {}
    for key, value in rows.items():
        stored = cast("Tensor", value.to(STORED[storage]) if value.is_floating_point() else value)
        if not bool(torch.isfinite(stored.float()).all()):
            raise RunFault(f"{path.name}: '{key}' has numbers beyond {storage}'s range: use --storage float32")
        tensors[str(key)] = stored.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"solved": str(solved), "episodes": str(episodes), "state_names": " ".join(names)}
    write_bytes(path, save_tensors(tensors, meta))


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        ConfigError: it is damaged; names it.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = file.metadata()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a recording of specialists ({error}): remove it to record it again") from None
    rows = TensorDict(tensors, batch_size=[len(tensors["success"])])
    return Recording(rows, int(meta["solved"]), int(meta["episodes"]), path.stat().st_size)


def moments(states: Sequence[Tensor], bodies: Sequence[Body]) -> tuple[Tensor, Tensor]:
    """Mean and variance [S] of each state entry over the rows of robots that have it, each robot counting the same.

    Args:
        states: per robot [M, S'], the entries that it has, in the order of the layout.
        bodies: of the robots.
    """
    size = len(bodies[0].present)
    count, total, squares = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
    for state, body in zip(states, bodies, strict=True):
        count[body.present] += 1
        total[body.present] += state.double().mean(0)
        squares[body.present] += state.double().square().mean(0)
    mean = total / count.clamp_min(1)
    return mean, (squares / count.clamp_min(1) - mean.square()).clamp_min(0)


class Pool:
    """Rows of several cells, from which batches are drawn that have equally many of each.

    Args:
        bodies: of the cells.
        device: of the batches.
    """

    def __init__(self, bodies: Sequence[Body], device: torch.device) -> None:
        self.bodies, self.device = list(bodies), device
        self._parts: list[list[tuple[TensorDict, Tensor]]] = [[] for _ in bodies]
        self._cells: list[tuple[TensorDict, Tensor]] = []

    def add(self, cell: int, rows: TensorDict, weight: Tensor) -> None:
        """Add rows [M] of a cell, each drawn in proportion to its weight [M]."""
        self._parts[cell].append((rows, weight.double()))
        self._cells = []

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw from."""
        return not any(self._parts)

    def clear(self) -> None:
        """Forget all rows."""
        self._parts = [[] for _ in self.bodies]

    def draw(self, count: int, generator: torch.Generator) -> TensorDict:
        """Draw `count` rows of each cell, with replacement.

        Returns:
            [cells * count], sorted by cell: ``obs`` for a `students.generalist.GeneralistActorCritic`, ``mean`` and ``std``
            [., A], padded where a robot has no such dimension.
        """
        if not self._cells:
            self._cells = [
                (joined([rows for rows, _ in parts]), torch.cat([weight for _, weight in parts]).cumsum(0))
                for parts in self._parts
            ]
        return joined([self._of(i, count, generator) for i in range(len(self.bodies))])

    def _of(self, cell: int, count: int, generator: torch.Generator) -> TensorDict:
        (rows, up_to), body = self._cells[cell], self.bodies[cell]
        at = torch.rand(count, dtype=torch.float64, generator=generator) * up_to[-1]
        drawn = take(rows, torch.searchsorted(up_to, at, right=True).clamp_max(len(up_to) - 1))
        state, mean = torch.zeros(count, len(body.present)), torch.zeros(count, len(body.own))
        std = torch.ones(count, len(body.own))
        state[:, body.present] = drawn["state"].float()
        mean[:, body.dims], std[:, body.dims] = drawn["mean"].float(), drawn["std"].float()
        obs = {key: value for key, value in drawn.items() if str(key).startswith("image.")}
        obs |= {"state": state, BODY: torch.full((count,), cell)}
        return TensorDict({"obs": obs, "mean": mean, "std": std}, batch_size=[count]).to(self.device)
