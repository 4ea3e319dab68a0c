"""Networks from observations to features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

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

    The stem turns patches of 4 x 4 pixels (more for large images, whose map is then 32 x 32) into channels, further
    stages halve the map, and a coarse 4 x 4 grid of it is flattened: a channel's strength says where in its cell an
    object is. NatureCNN at 256 pixels spends 97 % of its 13 million parameters on the layer that this replaces.
    """

    GRID = 4

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], features: int) -> None:
        """Build for images of `shape` (H, W, 3)."""
        super().__init__()
        height, width, colors = shape
        stride = max(4, min(height, width) // 32)
        # Patches do not overlap: a third faster than with twice the width, and positions are learnt as well.
        layers = [init(nn.Conv2d(colors, channels[0], stride, stride)), nn.ReLU(inplace=True)]
        for a, b in pairwise(channels):
            layers += [init(nn.Conv2d(a, b, 3, 2, 1)), nn.ReLU(inplace=True)]  # ELU costs more than the convolution
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(init(nn.Linear(channels[-1] * self.GRID**2, features)), nn.LayerNorm(features), nn.ELU())

    def forward(self, image: Tensor) -> Tensor:
        """Encode uint8 images [N, H, W, 3] to [N, features]."""
        x = image.permute(0, 3, 1, 2).float()  # [N, 3, H, W] in channels_last memory, as the convolutions like it
        x = x.mul_(2 / 255).sub_(1)  # to [-1, 1]
        x = self.stages(x)
        if x.shape[-2:] != (self.GRID, self.GRID):  # pooling 4 x 4 to 4 x 4 still costs a tenth of the backward pass
            x = F.adaptive_avg_pool2d(x, self.GRID)
        return self.head(x.flatten(1))
