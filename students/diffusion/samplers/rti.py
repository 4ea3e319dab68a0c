"""Warm starts: the last chunk, shifted by the executed actions, is denoised to the next chunk in a few steps.

RTI-DP (arXiv 2508.05396), after the real-time iteration of model predictive control. As published, no noise is added to the
guess, which enters the chain as if it were at the start level. Beyond the official code: environments of a batch restart
individually, lists of levels may have gaps, the start level can be chosen by measurement, and poor guesses are detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.students.diffusion.samplers.base import Sampler, SamplerConfig, even_levels, shift

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy

CANDIDATES = ((0, 1), (2, 3), (10, 3), (20, 4), (30, 4), (45, 5), (60, 8))
"""Start levels and numbers of levels; higher start levels can correct larger errors of a guess."""
CONTRACTION, TOLERANCE = 0.5, 0.05
"""Factor by which the distance to the full answer must shrink, and rms distance (of ±1) below which it need not."""
LOGGED = 256
"""Ticks logged before the start level is chosen."""


class WarmStart(SamplerConfig):
    """rti: warm start from the last chunk, shifted by the executed actions (RTI-DP)."""

    n_action_steps: int | None = Field(1, ge=1)
    """Actions of a chunk that are executed before the next chunk is drawn."""
    timesteps: int | Literal["auto"] = 3
    """Number of levels, evenly spaced from `start_timestep` to 0: network evaluations per chunk; auto: the fewest that bring
    the guess close to the full answer, measured on the first ticks, which are denoised in full."""
    start_timestep: int | None = Field(None, ge=0)
    """Level at which the guess enters; default: timesteps - 1, so that no level is skipped."""
    gripper: Literal["clip", "scale", "keep"] | None = None
    """Guess of discrete actions. clip: sign / factor; scale: unchanged, for a policy trained with gripper_scale < 1; keep:
    unchanged. Default: scale for such a policy, else clip."""
    factor: float = Field(1.0, ge=1)
    """Divisor of clip: 1 keeps ±1; the original uses 10 for image policies."""
    fallback: float = Field(3.0, gt=0)
    """Denoise in full if a tick moved the guess by more than this many standard deviations of the start level's noise: such
    inputs are outside the training distribution. 0.5 is strict; a large value disables it."""
    full: int = Field(16, ge=1)
    """Steps of DDIM (flow: Euler) for chunks that are denoised in full."""


class RealTimeIteration(Sampler):
    """Real-time iteration, see `WarmStart`.

    Attributes:
        levels: levels of a warm start; None during the measurement.
        warm: number of chunks that started from a guess.
        fallbacks: number of these that were then denoised in full.
    """

    def __init__(self, policy: DiffusionPolicy, config: WarmStart) -> None:
        super().__init__(policy, config)
        scaled = policy.config.gripper_scale < 1
        if config.gripper == "scale" and not scaled:
            raise ConfigError("gripper=scale needs a policy trained with --diffusion.gripper-scale 0.1 or so")
        self.config, self.warm, self.fallbacks = config, 0, 0
        self.clip = (config.gripper or ("scale" if scaled else "clip")) == "clip" and bool(policy.discrete.any())
        self.full_levels = even_levels(policy.config.num_train_timesteps - 1, config.full)
        self.levels: list[int] | None = None
        self._log: list[tuple[Tensor, Tensor, Tensor]] = []
        if config.timesteps != "auto":
            start = config.timesteps - 1 if config.start_timestep is None else config.start_timestep
            if config.timesteps < 1 or not config.timesteps - 1 <= start < policy.config.num_train_timesteps:
                raise ConfigError(
                    f"{config.timesteps} levels from {start} to 0: the policy has levels 0 to "
                    f"{policy.config.num_train_timesteps - 1}"
                )
            self.levels = even_levels(start, config.timesteps)
        elif config.start_timestep is not None:
            raise ConfigError(f"start_timestep={config.start_timestep} is what timesteps=auto chooses: leave it out")

    def sample(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        chunks, known = self.memory.recall(rows, num_envs)
        cold = ~known
        new = torch.empty(len(rows), self.policy.config.horizon, len(self.policy.discrete), device=context.device)
        if known.any():
            guess, seen = self.guess(chunks[known]), context[known]
            if self.levels is None:
                new[known] = self._log_and_choose(seen, guess)
            else:
                new[known] = self.iterate(seen, guess, self.levels)
                cold = cold.clone()
                cold[known] = self._exceeds_noise(guess, new[known])
                self.warm += len(guess)
                self.fallbacks += int(cold[known].sum())
        if cold.any():
            new[cold] = self._full(context[cold])
        self.memory.store(rows, new)
        return new

    def guess(self, chunks: Tensor) -> Tensor:
        """Initial guess of the next chunks [K, H, A] from the last ones."""
        moved = shift(chunks, self.n_action_steps)
        if not self.clip:
            return moved
        sign = torch.where(moved >= 0, 1.0, -1.0) * self.policy.config.gripper_scale / self.config.factor
        return torch.where(self.policy.discrete, sign, moved)

    def iterate(self, context: Tensor, guess: Tensor, levels: list[int]) -> Tensor:
        """Denoise from the guess [K, H, A] as if it were at the first of `levels`."""
        return self.denoise(guess, levels, context, self.policy.process.is_random)

    def _full(self, context: Tensor) -> Tensor:
        return self.denoise(self.noise(len(context)), self.full_levels, context, random=False)

    def _exceeds_noise(self, guess: Tensor, new: Tensor) -> Tensor:
        """Mask [K] of guesses that differ from their result by more than the noise."""
        assert self.levels is not None
        _, sigma = self.policy.process.parts(torch.tensor(self.levels[0], device=guess.device))
        return self._distance(guess, new) > self.config.fallback * sigma

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Rms distance [K] of continuous actions, without the repeated actions at the end of a guess."""
        known = max(1, a.shape[1] - self.n_action_steps)
        return (a - b)[:, :known, ~self.policy.discrete].square().mean((1, 2)).sqrt()

    def _log_and_choose(self, context: Tensor, guess: Tensor) -> Tensor:
        """Denoise in full and log; choose the levels once enough ticks are logged."""
        full = self._full(context)
        self._log.append((context, guess, full))
        if sum(len(c) for c, _, _ in self._log) >= LOGGED:
            logged = [torch.cat(parts) for parts in zip(*self._log, strict=True)]
            self.levels = self.choose_levels(logged[0], logged[1], logged[2])
            self._log.clear()
        return full

    def choose_levels(self, context: Tensor, guess: Tensor, full: Tensor) -> list[int]:
        """The fewest levels that contract, E|Phi(G) - A| < 0.5 E|G - A|, or end close to A; else those that end closest.

        Args:
            context: [T, n_obs, F] of logged ticks.
            guess: [T, H, A], G.
            full: [T, H, A], A: results of full denoising.
        """
        before = float(self._distance(guess, full).mean())
        tried: list[tuple[float, list[int]]] = []
        for levels in (
            even_levels(start, count) for start, count in CANDIDATES if start < self.policy.config.num_train_timesteps
        ):
            after = float(self._distance(self.iterate(context, guess, levels), full).mean())
            if after < max(CONTRACTION * before, TOLERANCE):
                return levels
            tried.append((after, levels))
        return min(tried)[1]
