"""What a sampler is: context in, a chunk of actions out, with memory per environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from envs.errors import ConfigError

if TYPE_CHECKING:
    from students.diffusion.policy import DiffusionPolicy


class SamplerConfig(BaseModel):
    """What every sampler can be told, as KEY=VALUE."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    execute: int | None = Field(None, ge=1)
    """Actions of a chunk that are executed before the next is drawn; default: half of them."""


class Sampler(ABC):
    """Draws chunks, normalised, for some of N environments at a time; row i is environment i in every call.

    Attributes:
        execute: a chunk is drawn for an environment every so many steps, and when its episode begins.
        name: as a person writes it.
        memory: of the last chunks, in samplers that have use for them.
        evaluations: passes of one observation through the network so far, those of a gradient counted once.
    """

    name: str

    def __init__(self, policy: DiffusionPolicy, config: SamplerConfig) -> None:
        self.policy, horizon = policy, policy.config.horizon
        self.execute = config.execute or horizon // 2
        if self.execute > horizon:
            raise ConfigError(f"execute={self.execute}: a chunk of this policy has {horizon} actions")
        self.generator = torch.Generator(policy.device).manual_seed(0)
        self.evaluations, self.memory = 0, Memory()

    @abstractmethod
    def plan(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """Draw chunks.

        Args:
            context: [K, n_obs, F].
            rows: [K] of which environments.
            num_envs: N.

        Returns:
            [K, H, A] normalised; the first `execute` actions are to be executed.
        """

    def forget(self, mask: Tensor) -> None:
        """Begin new episodes where mask [N] is True."""
        self.memory.forget(mask)

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The last chunks, and the state of the noise."""
        return {"rng": self.generator.get_state(), "known": self.memory.known, "chunks": self.memory.chunks}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.generator.set_state(state["rng"].cpu())
        self.memory.known, self.memory.chunks = (state[key].to(self.policy.device) for key in ("known", "chunks"))

    def noise(self, rows: int) -> Tensor:
        """Standard normal [rows, H, A]."""
        shape = (rows, self.policy.config.horizon, len(self.policy.discrete))
        return torch.randn(shape, generator=self.generator, device=self.policy.device)

    def predict(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Ask the network, and count it."""
        self.evaluations += len(x)
        return self.policy.predict(x, level, context)

    def walk(self, x: Tensor, levels: list[int], context: Tensor, random: bool) -> Tensor:
        """Go from level to level and from the last one to clean: one evaluation per row and level.

        Args:
            x: [K, H, A] at the first level.
            levels: descending; any sub-sequence.
            context: [K, n_obs, F].
            random: whether the steps add noise.
        """
        for now, then in descent(levels):
            noise = self.noise(len(x)) if random and then >= 0 else torch.zeros_like(x) if random else None
            x = self.leap(x, now, then, context, noise)
        return x

    def leap(self, x: Tensor, now: int, then: int, context: Tensor, noise: Tensor | None) -> Tensor:
        """Go from one level to the next: one evaluation per row; see `Process.step`."""
        at, to = (torch.tensor(level, device=x.device).view(1, 1, 1) for level in (now, then))
        return self.policy.process.step(x, self.predict(x, at, context), at, to, noise)


class Memory:
    """The last chunk of each environment.

    Attributes:
        known: [N] bool: which have one in this episode.
        chunks: [N, H, A].
    """

    def __init__(self) -> None:
        self.known = torch.zeros(0, dtype=torch.bool)
        self.chunks = torch.zeros(0)

    def recall(self, rows: Tensor, num_envs: int) -> tuple[Tensor, Tensor]:
        """Return the chunks [K, ...] of environments `rows` [K], and which of them there are [K] bool."""
        if len(self.known) != num_envs:
            self.known = torch.zeros(num_envs, dtype=torch.bool, device=rows.device)
        return self.chunks[rows] if self.known.any() else torch.zeros(0), self.known[rows]

    def store(self, rows: Tensor, chunks: Tensor) -> None:
        """Keep the chunks [K, ...] of `rows` [K], of the environments that were recalled last."""
        if len(self.chunks) != len(self.known) or self.chunks.shape[1:] != chunks.shape[1:]:
            self.chunks = chunks.new_zeros(len(self.known), *chunks.shape[1:])
        self.chunks = self.chunks.index_copy(0, rows, chunks)
        self.known = self.known.index_fill(0, rows, True)

    def forget(self, mask: Tensor) -> None:
        """Begin new episodes where mask [N] is True."""
        self.known = self.known & ~mask if len(mask) == len(self.known) else torch.zeros_like(mask)


def shift(chunk: Tensor, executed: int) -> Tensor:
    """Drop the executed actions of chunks [K, H, A] and repeat the last: a guess of the next chunk."""
    return torch.cat([chunk[:, executed:], chunk[:, -1:].expand(-1, min(executed, chunk.shape[1]), -1)], 1)


def descent(levels: list[int]) -> list[tuple[int, int]]:
    """The steps through descending levels, and from the last one to clean.

    >>> descent([7, 2, 0])
    [(7, 2), (2, 0), (0, -1)]
    """
    return list(zip(levels, [*levels[1:], -1], strict=True))


def spread(start: int, count: int) -> list[int]:
    """At most `count` levels from `start` down to 0, evenly; fewer where there are no more.

    >>> spread(2, 3), spread(7, 4), spread(3, 9)
    ([2, 1, 0], [7, 5, 2, 0], [3, 2, 1, 0])
    """
    if count == 1:
        return [start]
    return sorted({round(start * i / (count - 1)) for i in range(count)}, reverse=True)
