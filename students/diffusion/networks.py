"""Denoising networks: from noisy chunks, noise levels and context features to the prediction of the process.

Both take (x [N, H, A], level [N, H] int64, context [N, T, F]) and return [N, H, A].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.students.diffusion.config import DiffusionConfig

KERNEL, GROUPS, HEADS = 5, 8, 4


class LevelEmbedding(nn.Module):
    """Sinusoidal embedding of a level (Vaswani et al., 2017), followed by two layers."""

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("rates", torch.exp(-math.log(1e4) * torch.arange(width // 2) / (width // 2 - 1)), persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.Mish(), nn.Linear(2 * width, width))

    def forward(self, level: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        angle = level[..., None] * self.rates
        return self.layers(torch.cat([angle.sin(), angle.cos()], -1))


class Block(nn.Module):
    """Two convolutions with a residual connection, and FiLM conditioning in between (arXiv 1709.07871)."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv1d(n, outputs, KERNEL, padding=KERNEL // 2) for n in (inputs, outputs))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, outputs) for _ in range(2))
        self.film = nn.Linear(condition, 2 * outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[N, inputs, L], [N, condition] -> [N, outputs, L]."""
        scale, shift = self.film(condition)[..., None].chunk(2, 1)
        h = F.mish(self.norms[0](self.first(x))) * (1 + scale) + shift
        return F.mish(self.norms[1](self.second(h))) + self.skip(x)


class UNet(nn.Module):
    """Diffusion Policy's conditional U-Net over the chunk, with one block per resolution instead of two.

    The level embedding of each action is added to the action; their mean, with the context, conditions the blocks.
    """

    def __init__(self, config: DiffusionConfig, action_dim: int, features: int) -> None:
        super().__init__()
        width, depth = config.width or 64, config.depth or 2
        if width % GROUPS:
            raise ConfigError(f"diffusion.width {width}: a U-Net's channels are in {GROUPS} groups: a multiple of {GROUPS}")
        if config.horizon % 2 ** (depth - 1):
            raise ConfigError(
                f"diffusion.horizon {config.horizon}: a U-Net of {depth} resolutions needs a multiple of {2 ** (depth - 1)}"
            )
        widths = [width * 2**i for i in range(depth)]
        condition = width + config.n_obs_steps * features
        self.code = LevelEmbedding(width)
        self.inputs = nn.Linear(action_dim, width)
        self.down = nn.ModuleList(Block(a, b, condition) for a, b in zip([width, *widths], widths, strict=False))
        self.shorter = nn.ModuleList(nn.Conv1d(w, w, 3, 2, 1) for w in widths[:-1])
        self.middle = Block(widths[-1], widths[-1], condition)
        self.longer = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, 2, 1) for w in widths[:-1][::-1])
        narrower = [width, *widths[:-1]][::-1]
        self.up = nn.ModuleList(Block(2 * a, b, condition) for a, b in zip(widths[::-1], narrower, strict=True))
        self.outputs = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Predict from noisy chunks; shapes in the module docstring."""
        code = self.code(level)
        condition = torch.cat([code.mean(1), context.flatten(1)], -1)
        h, kept = (self.inputs(x) + code).transpose(1, 2), []
        for i, block in enumerate(self.down):
            h = block(self.shorter[i - 1](h) if i else h, condition)
            kept.append(h)
        h = self.middle(h, condition)
        for i, block in enumerate(self.up):
            h = block(torch.cat([self.longer[i - 1](h) if i else h, kept.pop()], 1), condition)
        return self.outputs(h.transpose(1, 2))


class Transformer(nn.Module):
    """One token per observation and per noisy action; every token attends to all tokens."""

    def __init__(self, config: DiffusionConfig, action_dim: int, features: int) -> None:
        super().__init__()
        width, depth = config.width or 128, config.depth or 4
        if width % HEADS:
            raise ConfigError(f"diffusion.width {width}: a transformer of {HEADS} heads needs a multiple of {HEADS}")
        self.code, self.inputs, self.context_in = (
            LevelEmbedding(width),
            nn.Linear(action_dim, width),
            nn.Linear(features, width),
        )
        self.places = nn.Parameter(0.02 * torch.randn(config.n_obs_steps + config.horizon, width))
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.outputs = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Predict from noisy chunks; shapes in the module docstring."""
        tokens = torch.cat([self.context_in(context), self.inputs(x) + self.code(level)], 1) + self.places
        return self.outputs(self.layers(tokens)[:, -x.shape[1] :])


NETWORKS: dict[str, type[UNet] | type[Transformer]] = {"unet": UNet, "transformer": Transformer}
