"""Networks from observations to features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def init(layer: nn.Linear | nn.Conv2d, gain: float = math.sqrt(2)) -> nn.Module:
    """Initialise a layer: orthogonal weights, zero biases (as CleanRL's PPO does)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: Sequence[int], out_gain: float) -> nn.Sequential:
    """Linear layers with ELU between them.

    Args:
        sizes: input, hidden and output widths.
        out_gain: gain of the last layer: 0.01 for an actor, so that the first actions are near zero; 1 for a critic.
    """
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [init(nn.Linear(a, b)), nn.ELU()]
    return nn.Sequential(*layers, init(nn.Linear(sizes[-2], sizes[-1]), out_gain))


class ImageEncoder(nn.Module):
    """uint8 images to features that keep positions, in well under 300,000 parameters.

    A strided stem brings any image to about 32 x 32, further stages halve it. The last map is read twice: its
    spatial soft-argmax says precisely where each channel fires (Finn et al., 2016, arXiv 1509.06113), a coarse 4 x 4
    grid says what is there. NatureCNN spends 97 % of its parameters on the layer that this replaces.
    """

    GRID = 4

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], features: int) -> None:
        """Build for images of `shape` (H, W, 3)."""
        super().__init__()
        height, width, colors = shape
        stride = max(2, min(height, width) // 32)
        stages: list[nn.Module] = [init(nn.Conv2d(colors, channels[0], 2 * stride, stride, stride // 2)), nn.ELU()]
        for a, b in pairwise(channels):
            stages += [init(nn.Conv2d(a, b, 3, 2, 1)), nn.ELU()]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            init(nn.Linear(channels[-1] * (self.GRID**2 + 2), features)), nn.LayerNorm(features), nn.ELU()
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode uint8 images [N, H, W, 3] to [N, features]."""
        x = image.permute(0, 3, 1, 2).float() / 255 - 0.5  # a view of [N, H, W, C] memory is channels_last already
        x = self.stages(x)
        grid = F.adaptive_avg_pool2d(x, self.GRID)
        return self.head(torch.cat([grid.flatten(1), soft_argmax(x)], dim=1))


def soft_argmax(x: Tensor) -> Tensor:
    """Expected position of each channel's softmax over the map.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, 2C]: horizontal, then vertical positions in [-1, 1].
    """
    weights = x.flatten(2).softmax(-1).view_as(x)  # [N, C, H, W]
    xs = torch.linspace(-1, 1, x.shape[3], device=x.device)
    ys = torch.linspace(-1, 1, x.shape[2], device=x.device)
    return torch.cat([weights.sum(2) @ xs, weights.sum(3) @ ys], dim=1)
