"""OpenVLA's vision backbones: vision transformers as built by timm (DINOv2 with registers, SigLIP), without timm.

Parameters have the names of the checkpoint. Features are those of the second-last block without a final norm, so the last
block, that norm and SigLIP's pooling do not exist here (see `unused` in `rpd.teachers.openvla.weights`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.teachers.openvla.config import OpenVLAConfig, ViTConfig

EPS = 1e-6
"""Epsilon of timm's LayerNorm; torch's default is 1e-5."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one block, [N, heads, T, width / heads] each."""


@dataclass(frozen=True)
class Memory:
    """Computations of a ViT for N images, so that some of their tokens can be recomputed."""

    blocks: list[KeyValue]
    tokens: Tensor
    """[N, T, width] after the last executed block."""


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, past: KeyValue | None, index: Tensor | None) -> tuple[Tensor, KeyValue]:
        """Attend from x [N, K, W] to itself, or to the tokens of `past` with those at `index` [N, K] replaced by x."""
        n, k, width = x.shape
        query, key, value = self.qkv(x).view(n, k, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None and index is not None:
            at = index[:, None, :, None].expand_as(key)
            key, value = past[0].scatter(2, at, key), past[1].scatter(2, at, value)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(n, k, width)), (key, value)


class MLP(nn.Module):
    """Two-layer MLP with the exact GELU, also in SigLIP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al., 2021, arXiv 2103.17239), with HF's parameter name."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return x * self.scale_factor


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, EPS)
        self.attn = Attention(config)
        self.ls1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width, EPS)
        self.mlp = MLP(config)
        self.ls2 = _layer_scale(config)

    def forward(self, x: Tensor, past: KeyValue | None = None, index: Tensor | None = None) -> tuple[Tensor, KeyValue]:
        """[N, K, width] -> [N, K, width], and this block's keys and values; see `Attention`."""
        mixed, memory = self.attn(self.norm1(x), past, index)
        x = x + self.ls1(mixed)
        return x + self.ls2(self.mlp(self.norm2(x))), memory


class PatchEmbed(nn.Module):
    """Convert patches to tokens: a convolution with stride equal to its kernel size."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, P, width]."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """One backbone: [N, 3, S, S] -> [N, P, width], the patch tokens after block depth - 2 (counted from 0)."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (image_size // config.patch) ** 2, config.width))
        if config.class_token:
            self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, config.width))
        if config.registers:
            self.reg_token = nn.Parameter(0.02 * torch.randn(1, config.registers, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of all patches."""
        return self.run(pixels).tokens[:, self.config.prefix :]

    def run(self, pixels: Tensor, memory: Memory | None = None, patches: Tensor | None = None) -> Memory:
        """Compute all tokens, or with a `memory` only those of `patches` [N, K] and the prefix; the others are kept.

        Tokens attend to all others, so that kept tokens are slightly outdated if another token changed.
        """
        config = self.config
        x = self.patch_embed(pixels) + self.pos_embed  # prefix tokens have no position embedding
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in self._prefix()), x], 1)
        if memory is None or patches is None:
            index = None
        else:
            prefix = torch.arange(config.prefix, device=x.device).expand(len(x), -1)
            index = torch.cat([prefix, patches + config.prefix], 1)
            x = x.gather(1, index[:, :, None].expand(-1, -1, config.width))
        blocks = []
        for i, block in enumerate(self.blocks):
            x, key_value = block(x, memory.blocks[i] if memory is not None else None, index)
            blocks.append(key_value)
        if memory is not None and index is not None:
            x = memory.tokens.scatter(1, index[:, :, None].expand_as(x), x)
        return Memory(blocks, x)

    def _prefix(self) -> list[Tensor]:
        names = ["cls_token"] * self.config.class_token + ["reg_token"] * (self.config.registers > 0)
        return [getattr(self, name) for name in names]


class VisionBackbone(nn.Module):
    """One ViT, or two with concatenated features."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        vits = [ViT(vit, config.image_size) for vit in config.vits()]
        self.featurizer = vits[0]
        if len(vits) > 1:
            self.fused_featurizer = vits[1]
        self.width = sum(vit.config.width for vit in vits)

    @property
    def vits(self) -> list[ViT]:
        """The ViTs in the order of their channels."""
        return [vit for vit in self.children() if isinstance(vit, ViT)]

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3 * backbones, S, S] -> [N, P, sum of widths]."""
        return torch.cat([vit(part) for vit, part in zip(self.vits, pixels.split(3, 1), strict=True)], -1)


def _layer_scale(config: ViTConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)
