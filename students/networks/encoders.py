"""Networks that encode observations as features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def init(layer: nn.Linear | nn.Conv2d, gain: float = math.sqrt(2)) -> nn.Module:
    """Initialize a layer: orthogonal weights, zero biases (as in CleanRL's PPO)."""
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
    """Encode uint8 images as features that keep positions, with fewer than 300,000 parameters.

    Patches of 8 x 8 pixels are embedded and 3 x 3 convolutions follow, which halve maps larger than 8 x 8. The final 8 x 8 map
    is
    flattened: the strength of a channel encodes the position of an object within its cell. In a regression of a cube's position
    from 64 x 64 pixels, this encoder reaches 8 mm in half the time of one that strides down to 4 x 4. NatureCNN at 256 pixels
    has 97 % of its 13 million parameters in the layer that this design avoids.
    """

    PATCH, GRID = 8, 8

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], features: int) -> None:
        """Build for images of `shape` (H, W, 3)."""
        super().__init__()
        patch, colors = self.PATCH, shape[-1]
        padding = [-size % patch for size in shape[:2]]  # lower and right border: complete the last patches
        rows, columns = ((size + pad) // patch for size, pad in zip(shape, padding, strict=False))
        layers: list[nn.Module] = [nn.ZeroPad2d((0, padding[1], 0, padding[0]))] if any(padding) else []
        layers += [init(nn.Conv2d(colors, channels[0], patch, patch)), nn.ReLU(inplace=True)]
        for a, b in pairwise(channels):
            stride = 2 if max(rows, columns) > self.GRID else 1
            rows, columns = -(-rows // stride), -(-columns // stride)
            layers += [init(nn.Conv2d(a, b, 3, stride, 1)), nn.ReLU(inplace=True)]  # ELU costs more than the convolution
        if max(rows, columns) > self.GRID:
            rows, columns = min(rows, self.GRID), min(columns, self.GRID)
            layers.append(nn.AdaptiveAvgPool2d((rows, columns)))
        self.stages = nn.Sequential(*layers)
        width = channels[-1] * rows * columns
        self.head = nn.Sequential(init(nn.Linear(width, features)), nn.LayerNorm(features), nn.ELU())

    def forward(self, image: Tensor) -> Tensor:
        """Encode uint8 images [N, H, W, 3] to [N, features]."""
        x = image.permute(0, 3, 1, 2).float()  # [N, 3, H, W] in channels_last memory, the fast layout for convolutions
        x = x.mul_(2 / 255).sub_(1)  # to [-1, 1]
        return self.head(self.stages(x).flatten(1))
