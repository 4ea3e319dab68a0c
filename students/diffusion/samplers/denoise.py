"""Denoise each chunk from pure noise, through all levels or a few evenly spaced ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor

from rpd.students.diffusion.samplers.base import Sampler, SamplerConfig, even_levels

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy


class AllSteps(SamplerConfig):
    """ddpm: every level, with noise in each step (Ho et al., 2020); the default of Diffusion Policy."""

    steps: int | None = Field(None, ge=1)
    """Number of levels, evenly spaced; default: all."""


class FewSteps(SamplerConfig):
    """ddim (diffusion) or euler (flow): a few evenly spaced levels, without noise (Song et al., 2021)."""

    steps: int = Field(16, ge=1)
    """Number of levels."""


class Denoise(Sampler):
    """Denoises from pure noise.

    Attributes:
        levels: levels at which the network is evaluated.
        random: whether its steps add noise.
    """

    def __init__(self, policy: DiffusionPolicy, config: AllSteps | FewSteps) -> None:
        super().__init__(policy, config)
        self.random = isinstance(config, AllSteps)
        levels = policy.config.num_train_timesteps
        self.levels = even_levels(levels - 1, min(config.steps or levels, levels))

    def sample(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        return self.denoise(self.noise(len(rows)), self.levels, context, self.random)
