"""Recordings of specialists (observations and action distributions), and balanced batches of them."""

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

from rpd.envs.errors import ConfigError, RunFault
from rpd.rollout.batch import joined, take
from rpd.students.embodiment_layout import RobotIO
from rpd.students.generalist import BODY
from rpd.students.io.files import write_bytes
from rpd.students.row_share import RowShare

STORED = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Recording:
    """One file: the steps [M] of one cell (robot and task) in one stage."""

    rows: TensorDict
    """``state`` [M, S'] (only the read entries), images, ``mean`` and ``std`` [M, A'] in the robot's range, ``success`` [M]."""
    solved: int
    """Number of solved episodes."""
    episodes: int
    size: int
    """File size, bytes."""
    source: str
    """Identity of the specialist; empty if unknown."""


def write(path: Path, rows: TensorDict, solved: int, episodes: int, storage: str, names: Sequence[str], source: str) -> None:
    """Write a recording as safetensors, with its state names and the specialist's identity, atomically.

    Raises:
        RunFault: a value is too large for float16.
    """
    tensors = {}
    for key, value in rows.items():
        stored = cast("Tensor", value.to(STORED[storage]) if value.is_floating_point() else value)
        if not bool(torch.isfinite(stored.float()).all()):
            raise RunFault(f"{path.name}: '{key}' has numbers beyond {storage}'s range: use --storage float32")
        tensors[str(key)] = stored.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"solved": str(solved), "episodes": str(episodes), "state_names": " ".join(names), "source": source}
    write_bytes(path, save_tensors(tensors, meta))


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        ConfigError: the file is damaged; names it.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = file.metadata()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a recording of specialists ({error}): remove it to record it again") from None
    rows = TensorDict(tensors, batch_size=[len(tensors["success"])])
    return Recording(rows, int(meta["solved"]), int(meta["episodes"]), path.stat().st_size, meta["source"])


def moments(states: Sequence[Tensor], bodies: Sequence[RobotIO]) -> tuple[Tensor, Tensor]:
    """Mean and variance [S] of each state entry over the rows of the robots that have it, with equal weight per robot.

    Args:
        states: per robot [M, S'], its entries in the order of the layout.
        bodies: the robots.
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
    """Rows of several cells, for batches with equally many rows per cell.

    Args:
        bodies: robots of the cells.
        device: device of the batches.
    """

    def __init__(self, bodies: Sequence[RobotIO], device: torch.device) -> None:
        self.bodies, self.device = list(bodies), device
        self._parts: list[list[tuple[TensorDict, Tensor]]] = [[] for _ in bodies]
        self._cells: list[tuple[TensorDict, Tensor]] = []

    def add(self, cell: int, rows: TensorDict, weight: Tensor) -> None:
        """Add rows [M] of a cell, with sampling weights [M]."""
        self._parts[cell].append((rows, weight.double()))
        self._cells = []

    @property
    def empty(self) -> bool:
        """Whether there are no rows."""
        return not any(self._parts)

    def clear(self) -> None:
        """Remove all rows."""
        self._parts = [[] for _ in self.bodies]

    def draw(self, share: RowShare, generator: torch.Generator) -> TensorDict:
        """Draw a process's share of `share.total` rows of each cell, with replacement.

        Returns:
            [cells * share.count], sorted by cell: ``obs`` for a `rpd.students.generalist.GeneralistActorCritic`, ``mean`` and
            ``std`` [., A], padded in dimensions that a robot lacks.
        """
        if not self._cells:
            self._cells = [
                (joined([rows for rows, _ in parts]), torch.cat([weight for _, weight in parts]).cumsum(0))
                for parts in self._parts
            ]
        return joined([self._of(i, share, generator) for i in range(len(self.bodies))])

    def _of(self, cell: int, share: RowShare, generator: torch.Generator) -> TensorDict:
        (rows, up_to), body = self._cells[cell], self.bodies[cell]
        at = share.of(torch.rand(share.total, dtype=torch.float64, generator=generator)) * up_to[-1]
        count = share.count
        drawn = take(rows, torch.searchsorted(up_to, at, right=True).clamp_max(len(up_to) - 1))
        state, mean = torch.zeros(count, len(body.present)), torch.zeros(count, len(body.own))
        std = torch.ones(count, len(body.own))
        state[:, body.present] = drawn["state"].float()
        mean[:, body.dims], std[:, body.dims] = drawn["mean"].float(), drawn["std"].float()
        obs = {key: value for key, value in drawn.items() if str(key).startswith("image.")}
        obs |= {"state": state, BODY: torch.full((count,), cell)}
        return TensorDict({"obs": obs, "mean": mean, "std": std}, batch_size=[count]).to(self.device)
