"""Noise processes: add noise to actions level by level, and step back. Levels run from 0 (least noise) to K - 1; -1 is clean.

Levels are int64 tensors that broadcast against chunks: rows, and even the actions of one chunk, may have different levels.
The schedulers of `diffusers` support one level for all and a fixed stride; where they apply, these steps equal theirs (tested).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rpd.envs.errors import missing_package

CLIP = 1.0
"""Largest absolute value of a clean action, normalized."""


class Factors(NamedTuple):
    """Coefficients of a step x' = clean * c + x * x + predicted * p + noise * z, with c as implied by the prediction p.

    None: the term is zero.
    """

    clean: Tensor | None
    x: Tensor | None
    predicted: Tensor | None
    noise: Tensor | None


class Process(nn.Module, ABC):
    """A noise process. Chunks are [N, H, A] with clean actions in [-1, 1]; noise is standard normal.

    Attributes:
        levels: number of levels, K.
        is_random: whether its steps can add noise.
    """

    levels: int
    is_random: bool

    @abstractmethod
    def parts(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (a, s) of x = a clean + s noise."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Training target of the network for a clean + s noise."""

    @abstractmethod
    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """Clean actions implied by a prediction."""

    @abstractmethod
    def prediction(self, x: Tensor, clean: Tensor, level: Tensor) -> Tensor:
        """Prediction that implies the given clean actions: the inverse of `clean`."""

    @abstractmethod
    def factors(self, now: Tensor, then: Tensor, random: bool) -> Factors:
        """Coefficients of the step from one level to a lower or equal one, see `step`; `random`: with noise."""

    def step(self, x: Tensor, predicted: Tensor, now: Tensor, then: Tensor, noise: Tensor | None = None) -> Tensor:
        """Step from one level to a lower or equal one.

        Args:
            x: chunks at level `now`.
            predicted: prediction of the network for x.
            now: current levels.
            then: target levels, -1 for clean; may skip levels.
            noise: shape of x; None: deterministic step.
        """
        of = self.factors(now, then, noise is not None)
        clean = None if of.clean is None else self.clean(x, predicted, now)
        terms = zip(of, (clean, x, predicted, noise), strict=True)
        return functools.reduce(torch.add, (factor * term for factor, term in terms if factor is not None and term is not None))

    def noisy(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Add noise at a level."""
        a, s = self.parts(level)
        return a * clean + s * noise


class Diffusion(Process):
    """The network predicts the noise. Steps with noise are DDPM's (Ho et al., 2020), without noise DDIM's (Song et al., 2021).

    As in Diffusion Policy, the implied clean actions are clipped to [-1, 1] and the variance is the smaller one
    ("fixed_small").
    """

    is_random = True
    alpha_bar: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("alpha_bar", torch.ones(levels + 1))  # from level -1, which is clean

    def schedule(self) -> None:
        """Compute the schedule for a new policy; a saved policy stores it with its weights.

        Raises:
            ConfigError: diffusers is not installed.
        """
        try:
            from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        except ImportError:
            raise missing_package("a new diffusion policy", "diffusers", "diffusion") from None
        made = DDPMScheduler(num_train_timesteps=self.levels, beta_schedule="squaredcos_cap_v2")
        self.alpha_bar[1:] = made.alphas_cumprod

    def parts(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """See `Process`: sqrt(alpha_bar), sqrt(1 - alpha_bar)."""
        alpha_bar = self.alpha_bar[level + 1]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """See `Process`."""
        return noise

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """See `Process`."""
        a, s = self.parts(level)
        return ((x - s * predicted) / a).clamp(-CLIP, CLIP)

    def prediction(self, x: Tensor, clean: Tensor, level: Tensor) -> Tensor:
        """See `Process`."""
        a, s = self.parts(level)
        return (x - a * clean) / s

    def factors(self, now: Tensor, then: Tensor, random: bool) -> Factors:
        """See `Process`."""
        if not random:  # DDIM, eq. 12 with sigma = 0: sqrt(abar') x0 + sqrt(1 - abar') eps
            (a, s), stays = self.parts(then), (now == then).float()
            return Factors(a * (1 - stays), stays, s * (1 - stays), None)
        # DDPM, eq. 7, with alpha and beta of the whole step from `now` to `then`:
        # mean = sqrt(abar') beta / (1 - abar) x0 + sqrt(alpha) (1 - abar') / (1 - abar) x,
        # variance = (1 - abar') / (1 - abar) beta
        before, after = self.alpha_bar[now + 1], self.alpha_bar[then + 1]
        alpha = before / after
        left = (1 - after) / (1 - before)
        return Factors(
            after.sqrt() * (1 - alpha) / (1 - before), alpha.sqrt() * left, None, (left * (1 - alpha)).sqrt()
        )  # fmt: skip


class Flow(Process):
    """x = (1 - u) clean + u noise with u = (level + 1) / K; the network predicts dx/du, and steps are Euler's."""

    is_random = False

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def parts(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """See `Process`: 1 - u, u."""
        u = (level + 1) / self.levels
        return 1 - u, u

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """See `Process`."""
        return noise - clean

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """See `Process`."""
        return x - self.parts(level)[1] * predicted

    def prediction(self, x: Tensor, clean: Tensor, level: Tensor) -> Tensor:
        """See `Process`."""
        return (x - clean) / self.parts(level)[1]

    def factors(self, now: Tensor, then: Tensor, random: bool) -> Factors:
        """See `Process`: Euler's step, always without noise."""
        return Factors(None, torch.ones(()), -(now - then) / self.levels, None)
