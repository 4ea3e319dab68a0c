"""Diffusion action head of the released models: a small network that denoises a chunk of actions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.envs.finite import nan_where_invalid
from rpd.teachers.octo.config import DiffusionHead
from rpd.teachers.octo.heads import PooledHead, error
from rpd.teachers.octo.schedule import Schedule, cosine, ddim, ddpm
from rpd.teachers.octo.transformer import EPSILON


class ResidualBlock(nn.Module):
    """Residual block: norm, layer of four times the width, swish, layer back to the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPSILON)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return x + self.down(F.silu(self.up(self.norm(x))))


class DiffusionActionHead(PooledHead):
    """DiffusionActionHead. A chunk is one vector of H * A numbers.

    Attributes:
        ddim_steps: number of deterministic steps (DDIM); None: all steps with noise, as in the original.
        embodiment_dim: action dimensions of the embodiment; the others are kept as noise. None: all.
    """

    config: DiffusionHead
    is_random = True

    def __init__(self, config: DiffusionHead, width: int) -> None:
        super().__init__(config, width)
        time, hidden, self.size = config.time_dim, config.hidden_dim, config.action_horizon * config.action_dim
        self.frequencies = nn.Parameter(torch.randn(time // 2, 1))
        self.time_up, self.time_down = nn.Linear(time, 2 * time), nn.Linear(2 * time, time)
        self.inputs = nn.Linear(time + width + self.size, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(config.num_blocks))
        self.outputs = nn.Linear(hidden, self.size)
        self.ddim_steps: int | None = None
        self.embodiment_dim: int | None = None

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of its training."""
        return cosine(self.config.diffusion_steps)

    def forward(self, embedding: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Predict the noise in x.

        Args:
            embedding: [..., D].
            x: [..., H * A] noisy actions.
            time: [..., 1] steps, 0 to T - 1.

        Returns:
            [..., H * A].
        """
        angle = 2 * math.pi * time.float() @ self.frequencies.T
        code = self.time_down(F.silu(self.time_up(torch.cat([angle.cos(), angle.sin()], -1))))
        shape = x.shape[:-1]
        h = self.inputs(torch.cat([code.expand(*shape, -1), embedding.expand(*shape, -1), x], -1))
        for block in self.blocks:
            h = block(h)
        return nan_where_invalid(self.outputs(F.silu(h)))  # the denoising loop would clip unsound values

    def denoise(self, tokens: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """Denoise standard normal noise to chunks.

        Args:
            tokens: [N, n, D] readout tokens of the last time step.
            x: [*shape, N, H * A] standard normal.
            noise: [steps, *shape, N, H * A] standard normal.

        Returns:
            [*shape, N, H, A].
        """
        embedding = self.embedding(tokens)
        free = None
        if self.embodiment_dim is not None and self.embodiment_dim < self.config.action_dim:
            free = (torch.arange(self.size, device=x.device) % self.config.action_dim) >= self.embodiment_dim

        def predict(x: Tensor, t: int) -> Tensor:
            return self(embedding, x, torch.full((1,), t, device=x.device))

        walk = ddpm if self.ddim_steps is None else ddim
        x = walk(predict, self.schedule, x, noise, self.config.max_action, free)
        return x.unflatten(-1, (self.config.action_horizon, self.config.action_dim))

    def sample(self, tokens: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `ActionHead`: all samples of all rows are denoised in one batch."""
        whole = (*shape, len(tokens), self.size)
        x = torch.randn(whole, generator=generator, device=generator.device)
        steps = self.ddim_steps or self.config.diffusion_steps
        noise = torch.randn(steps, *whole, generator=generator, device=generator.device)
        return self.denoise(tokens, x, noise)

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionHead`: error of the predicted noise (Ho et al., 2020, eq. 14), at a random step per time step."""
        clean = actions.flatten(-2).clamp(-self.config.max_action, self.config.max_action)
        shape, device = (self.config.n_diffusion_samples, *clean.shape), generator.device
        time = torch.randint(self.config.diffusion_steps, (*shape[:-1], 1), generator=generator, device=device)
        noise = torch.randn(shape, generator=generator, device=device)
        alpha_bar = self.schedule.alpha_bar.to(device)[time]
        x = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        predicted = self(self.embedding(tokens), x, time)
        return error(predicted, noise, mask.flatten(-2), self.config.loss_type) * self.config.action_dim
