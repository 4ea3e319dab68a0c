"""Base class of samplers: context in, chunk of actions out, with memory per environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rpd.envs.errors import ConfigError

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy


class SamplerConfig(BaseModel):
    """Options of every sampler, as KEY=VALUE."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    n_action_steps: int | None = Field(None, ge=1)
    """Actions of a chunk that are executed before the next chunk is drawn; default: half of them."""


class Sampler(ABC):
    """Draws normalized chunks for some of N environments; row i is environment i in every call.

    Attributes:
        n_action_steps: actions executed per chunk; a new chunk is drawn after them and when an episode starts.
        name: name with options, as configured.
        memory: last chunks, for samplers that use them.
        evaluations: forward passes so far, counted per observation; a pass with gradient counts once.
    """

    name: str

    def __init__(self, policy: DiffusionPolicy, config: SamplerConfig) -> None:
        self.policy, horizon = policy, policy.config.horizon
        self.n_action_steps = config.n_action_steps or horizon // 2
        if self.n_action_steps > horizon:
            raise ConfigError(f"n_action_steps={self.n_action_steps}: a chunk of this policy has {horizon} actions")
        self.generator = torch.Generator(policy.device).manual_seed(0)
        self.evaluations, self.memory = 0, ChunkMemory()

    @abstractmethod
    def sample(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """Draw chunks.

        Args:
            context: [K, n_obs, F].
            rows: [K] indices of the environments.
            num_envs: number of environments, N.

        Returns:
            [K, H, A] normalized; the first `n_action_steps` actions are executed.
        """

    def reset(self, mask: Tensor) -> None:
        """Start new episodes where mask [N] is True."""
        self.memory.reset(mask)

    def seed(self, seed: int) -> None:
        """Reset the noise generator."""
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Last chunks and state of the noise generator."""
        return {"rng": self.generator.get_state(), "known": self.memory.known, "chunks": self.memory.chunks}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.generator.set_state(state["rng"].cpu())
        self.memory.known, self.memory.chunks = (state[key].to(self.policy.device) for key in ("known", "chunks"))

    def noise(self, rows: int) -> Tensor:
        """Standard normal noise [rows, H, A]."""
        shape = (rows, self.policy.config.horizon, len(self.policy.discrete))
        return torch.randn(shape, generator=self.generator, device=self.policy.device)

    def predict(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Evaluate the network and count the evaluations."""
        self.evaluations += len(x)
        return self.policy.predict(x, level, context)

    def denoise(self, x: Tensor, levels: list[int], context: Tensor, random: bool) -> Tensor:
        """Denoise from level to level down to clean: one evaluation per row and level.

        Args:
            x: [K, H, A] chunks at the first level.
            levels: descending levels; may skip some.
            context: [K, n_obs, F].
            random: whether the steps add noise.
        """
        for now, then in level_pairs(levels):
            noise = self.noise(len(x)) if random and then >= 0 else torch.zeros_like(x) if random else None
            x = self.denoise_step(x, now, then, context, noise)
        return x

    def denoise_step(self, x: Tensor, now: int, then: int, context: Tensor, noise: Tensor | None) -> Tensor:
        """Denoise from one level to another: one evaluation per row; see `Process.step`."""
        at, to = (torch.tensor(level, device=x.device).view(1, 1, 1) for level in (now, then))
        return self.policy.process.step(x, self.predict(x, at, context), at, to, noise)


class ChunkMemory:
    """The last chunk of each environment.

    Attributes:
        known: [N] bool: environments with a chunk in this episode.
        chunks: [N, H, A].
    """

    def __init__(self) -> None:
        self.known = torch.zeros(0, dtype=torch.bool)
        self.chunks = torch.zeros(0)

    def recall(self, rows: Tensor, num_envs: int) -> tuple[Tensor, Tensor]:
        """Return the chunks [K, ...] of environments `rows` [K], and a mask [K] bool of those that exist."""
        if len(self.known) != num_envs:
            self.known = torch.zeros(num_envs, dtype=torch.bool, device=rows.device)
        return self.chunks[rows] if self.known.any() else torch.zeros(0), self.known[rows]

    def store(self, rows: Tensor, chunks: Tensor) -> None:
        """Store the chunks [K, ...] of environments `rows` [K]; call `recall` first."""
        if len(self.chunks) != len(self.known) or self.chunks.shape[1:] != chunks.shape[1:]:
            self.chunks = chunks.new_zeros(len(self.known), *chunks.shape[1:])
        self.chunks = self.chunks.index_copy(0, rows, chunks)
        self.known = self.known.index_fill(0, rows, True)

    def reset(self, mask: Tensor) -> None:
        """Start new episodes where mask [N] is True."""
        self.known = self.known & ~mask if len(mask) == len(self.known) else torch.zeros_like(mask)


def shift(chunk: Tensor, executed: int) -> Tensor:
    """Drop the executed actions of chunks [K, H, A] and repeat the last action: an initial guess of the next chunk."""
    return torch.cat([chunk[:, executed:], chunk[:, -1:].expand(-1, min(executed, chunk.shape[1]), -1)], 1)


def level_pairs(levels: list[int]) -> list[tuple[int, int]]:
    """Pairs of successive levels, ending with the step to clean.

    >>> level_pairs([7, 2, 0])
    [(7, 2), (2, 0), (0, -1)]
    """
    return list(zip(levels, [*levels[1:], -1], strict=True))


def even_levels(start: int, count: int) -> list[int]:
    """At most `count` evenly spaced levels from `start` down to 0.

    >>> even_levels(2, 3), even_levels(7, 4), even_levels(3, 9)
    ([2, 1, 0], [7, 5, 2, 0], [3, 2, 1, 0])
    """
    if count == 1:
        return [start]
    return sorted({round(start * i / (count - 1)) for i in range(count)}, reverse=True)
