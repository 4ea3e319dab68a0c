"""Warm starts: the last chunk, moved on by what was executed, is the guess from which few steps lead to the next.

RTI-DP (arXiv 2508.05396), after the real-time iteration of model predictive control. As published, the guess gets no noise
and enters the chain as if it were at the start level. What the official code lacks: environments in a batch begin anew one
by one, a list of levels with gaps takes steps of that size, the start level can be found by measuring, and a guess that was
off is noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from envs.errors import ConfigError
from students.diffusion.samplers.base import Sampler, SamplerConfig, shift, spread

if TYPE_CHECKING:
    from students.diffusion.policy import DiffusionPolicy

CANDIDATES = ((0, 1), (2, 3), (10, 3), (20, 4), (30, 4), (45, 5), (60, 8))
"""Start level and levels: higher ones can move a guess further."""
CONTRACTION, TOLERANCE = 0.5, 0.05
"""By how much the distance to the full answer has to shrink, and the rms distance (of ±1) below which it need not."""
LOGGED = 256
"""Ticks that are logged before the start level is chosen."""


class WarmStart(SamplerConfig):
    """rti: warm start from the last chunk, moved on by what was executed (RTI-DP)."""

    execute: int | None = Field(1, ge=1)
    """Actions of a chunk that are executed before the next is drawn."""
    levels: int | Literal["auto"] = 3
    """Levels, evenly from `start` to 0: network evaluations per chunk; auto: the fewest that bring the guess close to the full
    answer, as measured on the first ticks, which are denoised in full."""
    start: int | None = Field(None, ge=0)
    """Level at which the guess enters; default: levels - 1, so that none is left out."""
    gripper: Literal["clip", "scale", "keep"] | None = None
    """The guess of discrete actions. clip: sign / factor; scale: as it is, of a policy trained with gripper_scale < 1; keep: as
    it is. Default: scale for such a policy, clip for others."""
    factor: float = Field(1.0, ge=1)
    """Of clip: 1 leaves ±1; 10 is the original's for policies from images."""
    fallback: float = Field(3.0, gt=0)
    """Denoise in full where a tick moved the guess by more than so many standard deviations of the start level's noise: the
    network has seldom seen what is further off. 0.5 is strict; a large number: never."""
    full: int = Field(16, ge=1)
    """Steps of DDIM (flow: Euler) with which a chunk is denoised in full."""


class RealTimeIteration(Sampler):
    """See `WarmStart`.

    Attributes:
        levels: that a warm start walks through; None while they are being measured.
        warm: chunks that began with a guess.
        fallbacks: those of them that were denoised in full after all.
    """

    def __init__(self, policy: DiffusionPolicy, config: WarmStart) -> None:
        super().__init__(policy, config)
        scaled = policy.config.gripper_scale < 1
        if config.gripper == "scale" and not scaled:
            raise ConfigError("gripper=scale needs a policy trained with --diffusion.gripper-scale 0.1 or so")
        self.config, self.warm, self.fallbacks = config, 0, 0
        self.clip = (config.gripper or ("scale" if scaled else "clip")) == "clip" and bool(policy.discrete.any())
        self.whole = spread(policy.config.levels - 1, config.full)
        self.levels: list[int] | None = None
        self._log: list[tuple[Tensor, Tensor, Tensor]] = []
        if config.levels != "auto":
            start = config.levels - 1 if config.start is None else config.start
            if config.levels < 1 or not config.levels - 1 <= start < policy.config.levels:
                raise ConfigError(
                    f"{config.levels} levels from {start} to 0: the policy has levels 0 to {policy.config.levels - 1}"
                )
            self.levels = spread(start, config.levels)
        elif config.start is not None:
            raise ConfigError(f"start={config.start} is what levels=auto chooses: leave it out")

    def plan(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        chunks, known = self.memory.recall(rows, num_envs)
        cold = ~known
        new = torch.empty(len(rows), self.policy.config.horizon, len(self.policy.discrete), device=context.device)
        if known.any():
            guess, seen = self.guess(chunks[known]), context[known]
            if self.levels is None:
                new[known] = self._measured(seen, guess)
            else:
                new[known] = self.iterate(seen, guess, self.levels)
                cold = cold.clone()
                cold[known] = self._off(guess, new[known])
                self.warm += len(guess)
                self.fallbacks += int(cold[known].sum())
        if cold.any():
            new[cold] = self._full(context[cold])
        self.memory.store(rows, new)
        return new

    def guess(self, chunks: Tensor) -> Tensor:
        """The guess of the next chunks [K, H, A] from the last ones."""
        moved = shift(chunks, self.execute)
        if not self.clip:
            return moved
        sign = torch.where(moved >= 0, 1.0, -1.0) * self.policy.config.gripper_scale / self.config.factor
        return torch.where(self.policy.discrete, sign, moved)

    def iterate(self, context: Tensor, guess: Tensor, levels: list[int]) -> Tensor:
        """Walk from the guess [K, H, A] as if it were at the first of `levels`."""
        return self.walk(guess, levels, context, self.policy.process.is_random)

    def _full(self, context: Tensor) -> Tensor:
        return self.walk(self.noise(len(context)), self.whole, context, random=False)

    def _off(self, guess: Tensor, new: Tensor) -> Tensor:
        """Which guesses [K] were further from what came of them than noise would be."""
        assert self.levels is not None
        _, sigma = self.policy.process.parts(torch.tensor(self.levels[0], device=guess.device))
        return self._distance(guess, new) > self.config.fallback * sigma

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Rms distance [K] of continuous actions that both chunks know: the last ones of a guess are repeated."""
        known = max(1, a.shape[1] - self.execute)
        return (a - b)[:, :known, ~self.policy.discrete].square().mean((1, 2)).sqrt()

    def _measured(self, context: Tensor, guess: Tensor) -> Tensor:
        """Denoise in full, and log; choose the levels once there are enough ticks."""
        full = self._full(context)
        self._log.append((context, guess, full))
        if sum(len(c) for c, _, _ in self._log) >= LOGGED:
            logged = [torch.cat(parts) for parts in zip(*self._log, strict=True)]
            self.levels = self.choose(logged[0], logged[1], logged[2])
            self._log.clear()
        return full

    def choose(self, context: Tensor, guess: Tensor, full: Tensor) -> list[int]:
        """The fewest levels that contract: E|Phi(G) - A| < 0.5 E|G - A|, or that end close to A; else those that end closest.

        Args:
            context: [T, n_obs, F] of logged ticks.
            guess: [T, H, A], G.
            full: [T, H, A], A: what full denoising answered.
        """
        before = float(self._distance(guess, full).mean())
        tried: list[tuple[float, list[int]]] = []
        for levels in (spread(start, count) for start, count in CANDIDATES if start < self.policy.config.levels):
            after = float(self._distance(self.iterate(context, guess, levels), full).mean())
            if after < max(CONTRACTION * before, TOLERANCE):
                return levels
            tried.append((after, levels))
        return min(tried)[1]
