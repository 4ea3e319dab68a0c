"""Resize images to the model's input size as in Octo's evaluation: TensorFlow's Lanczos resize and a central crop.

Both are linear and separable, so that one matrix per axis does both, with a single rounding at the end.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

RADIUS = 3
"""Radius of the Lanczos kernel, pixels of the smaller image."""


def resize(images: Tensor, size: tuple[int, int], area: float | None = None) -> Tensor:
    """Crop the center and resize.

    Args:
        images: uint8 [N, H, W, 3].
        size: output height and width.
        area: fraction of the area to keep; None: all.

    Returns:
        uint8 [N, *size, 3]; the input itself if nothing changes.
    """
    if images.shape[1:3] == size and area is None:
        return images
    rows, columns = (axis(old, new, area).to(images.device) for old, new in zip(images.shape[1:3], size, strict=True))
    done = torch.einsum("yh,nhwc,xw->nyxc", rows, images.float(), columns)
    return done.round().clamp(0, 255).to(torch.uint8)  # rounds half to even


@functools.lru_cache(maxsize=16)
def axis(old: int, new: int, area: float | None) -> Tensor:
    """Matrix [new, old] float32 for one axis."""
    matrix = lanczos(old, new)
    return (matrix if area is None else crop(new, area) @ matrix).float()


def lanczos(old: int, new: int) -> Tensor:
    """TensorFlow's lanczos3 with antialiasing, float64 [new, old]."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio
    distance = (torch.arange(old) + 0.5 - centre[:, None]) / stretch
    weight = torch.sinc(distance) * torch.sinc(distance / RADIUS) * (distance.abs() < RADIUS)
    return weight / weight.sum(1, keepdim=True)


def crop(size: int, area: float) -> Tensor:
    """``tf.image.crop_and_resize`` of the central box to the original size: bilinear with aligned corners, float64."""
    side = math.sqrt(area)
    at = torch.linspace((1 - side) / 2, (1 + side) / 2, size, dtype=torch.float64) * (size - 1)
    low = at.floor().clamp(0, size - 1).long()
    high, part = (low + 1).clamp_max(size - 1), at - low
    matrix = torch.zeros(size, size, dtype=torch.float64)
    rows = torch.arange(size)
    matrix.index_put_((rows, low), 1 - part, accumulate=True)
    return matrix.index_put_((rows, high), part, accumulate=True)
