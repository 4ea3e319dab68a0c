"""How actions become noise, level by level, and the steps back. A level is 0 (least noise) to K - 1; -1 is none.

Levels are int64 tensors that broadcast against chunks: rows, and even the actions of one chunk, may be at different ones.
`diffusers`' schedulers know one level for all and steps of one stride; where they apply, these steps equal theirs (tested).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from envs.errors import ConfigError

CLIP = 1.0
"""Largest absolute value of a clean action, normalised."""


class Factors(NamedTuple):
    """A step back: x' = clean c + x x + predicted p + noise z, with what a prediction p says that the clean actions c are.

    None: the term is absent.
    """

    clean: Tensor | None
    x: Tensor | None
    predicted: Tensor | None
    noise: Tensor | None


class Process(nn.Module, ABC):
    """A way to add noise. Chunks are [N, H, A] with clean actions in [-1, 1]; noise is standard normal.

    Attributes:
        levels: K.
        is_random: whether its steps back can add noise.
    """

    levels: int
    is_random: bool

    @abstractmethod
    def parts(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (a, s) of x = a clean + s noise."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What the network shall say of a clean + s noise."""

    @abstractmethod
    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """What a prediction says that the clean actions are."""

    @abstractmethod
    def prediction(self, x: Tensor, clean: Tensor, level: Tensor) -> Tensor:
        """The prediction by which `clean` would be the clean actions: the inverse of `clean`."""

    @abstractmethod
    def factors(self, now: Tensor, then: Tensor, random: bool) -> Factors:
        """The step from one level to a lower or equal one, see `step`; `random`: with noise."""

    def step(self, x: Tensor, predicted: Tensor, now: Tensor, then: Tensor, noise: Tensor | None = None) -> Tensor:
        """Go from one level to a lower or equal one.

        Args:
            x: at level `now`.
            predicted: by the network, of x.
            now: levels.
            then: levels, -1 for clean; any that are lower, not just now - 1.
            noise: as x; None: without chance.
        """
        of = self.factors(now, then, noise is not None)
        clean = None if of.clean is None else self.clean(x, predicted, now)
        terms = zip(of, (clean, x, predicted, noise), strict=True)
        return functools.reduce(torch.add, (factor * term for factor, term in terms if factor is not None and term is not None))

    def noisy(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Add noise."""
        a, s = self.parts(level)
        return a * clean + s * noise


class Diffusion(Process):
    """The network predicts the noise; steps with noise are DDPM's (Ho et al., 2020), those without DDIM's (Song et al., 2021).

    As in Diffusion Policy: what the network takes for the clean actions is clipped to [-1, 1], the variance is the smaller
    one ("fixed_small").
    """

    is_random = True
    alpha_bar: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("alpha_bar", torch.ones(levels + 1))  # from level -1, which is clean

    def schedule(self) -> None:
        """Fill in the schedule, as a new policy needs it; a saved one has it among its numbers.

        Raises:
            ConfigError: diffusers is not installed.
        """
        try:
            from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        except ImportError:
            raise ConfigError("a new diffusion policy needs diffusers: pip install 'rpd[diffusion]'") from None
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
        # DDPM, eq. 7, with alpha and beta of the whole way from `now` to `then`:
        # mean = sqrt(abar') beta / (1 - abar) x0 + sqrt(alpha) (1 - abar') / (1 - abar) x,
        # variance = (1 - abar') / (1 - abar) beta
        before, after = self.alpha_bar[now + 1], self.alpha_bar[then + 1]
        alpha = before / after
        left = (1 - after) / (1 - before)
        return Factors(
            after.sqrt() * (1 - alpha) / (1 - before), alpha.sqrt() * left, None, (left * (1 - alpha)).sqrt()
        )  # fmt: skip


class Flow(Process):
    """x = (1 - u) clean + u noise with u = (level + 1) / K; the network predicts dx/du, and Euler's method walks back."""

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
        """See `Process`: Euler's step; there is never noise to add."""
        return Factors(None, torch.ones(()), -(now - then) / self.levels, None)
