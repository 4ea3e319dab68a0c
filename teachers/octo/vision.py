"""Octo's convolutional stem: converts images to tokens, with observation and goal as channels of one image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.teachers.octo.config import Stem

GROUPS = 32
EPSILON = 1e-6


class StandardizedConv(nn.Conv2d):
    """3 x 3 convolution with stride 2 and a standardized kernel (Qiao et al., 2019)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        std, mean = torch.std_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, self.stride, self.padding)


class SmallStem(nn.Module):
    """Four convolutions with group norms, then one token per patch of 16 pixels.

    Args:
        config: sizes of the stem.
        inputs: input channels, 3 per observation and goal image.
    """

    def __init__(self, config: Stem, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        channels = (inputs, *config.features)
        self.convs = nn.ModuleList(StandardizedConv(a, b) for a, b in zip(channels, config.features, strict=False))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, n, EPSILON) for n in config.features)
        self.embedding = nn.Conv2d(config.features[-1], config.num_features, 1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, channels] -> [B, tokens, num_features], in row-major order."""
        x = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self.embedding.weight.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # contiguous: torch's CPU group norm loses three digits on channels-last memory, and all of them for uniform images
            x = F.relu(norm(conv(x).contiguous()))
        return self.embedding(x).flatten(2).transpose(1, 2)


def stack(observed: list[Tensor], goals: list[Tensor | None]) -> Tensor:
    """Stack observations and goals as channels of one image per time step.

    Args:
        observed: uint8 [B, W, H, H, 3] per camera.
        goals: uint8 [B, H, H, 3] per camera; None: black, as in training without a goal.

    Returns:
        uint8 [B * W, H, H, 3 * (cameras + goals)].
    """
    first = observed[0]
    repeated = [
        torch.zeros_like(first) if goal is None else goal[:, None].expand(-1, first.shape[1], -1, -1, -1) for goal in goals
    ]
    return torch.cat([*observed, *repeated], -1).flatten(0, 1)
