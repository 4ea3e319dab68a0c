"""Convert images to pixel values exactly like PrismaticImageProcessor: resize with PIL on uint8, then normalize.

PIL rounds to 8 bits between resizing and normalizing and has its own downscaling filters: interpolation of tensors would change
pixel values enough to affect the network.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rpd.teachers.openvla.config import ProcessorConfig


def resize(images: Tensor, config: ProcessorConfig) -> Tensor:
    """Letterbox, resize and crop with the checkpoint's settings.

    Args:
        images: uint8 [N, H, W, 3], any H and W.
        config: the checkpoint's processor.

    Returns:
        uint8 [N, S, S, 3] on the same device; the input itself if nothing changes.
    """
    size = config.tvf_crop_params[0].output_size
    if images.shape[1:3] == size:  # unchanged by every strategy
        return images
    done = [_resize_one(Image.fromarray(image), config) for image in images.cpu().numpy()]
    return torch.from_numpy(np.stack([np.asarray(image) for image in done])).to(images.device)


def normalize(images: Tensor, config: ProcessorConfig) -> Tensor:
    """Scale to [0, 1] and normalize for each backbone: uint8 [N, S, S, 3] -> float32 [N, 3 * backbones, S, S]."""
    planes = images.permute(0, 3, 1, 2).float() / 255
    channels = []
    for params in config.tvf_normalize_params:
        mean, std = (torch.tensor(v, device=planes.device).view(3, 1, 1) for v in (params.mean, params.std))
        channels.append((planes - mean) / std)
    return torch.cat(channels, 1)


def crop_area(images: Tensor, area: float) -> Tensor:
    """Crop the center and resize it to the original size, as needed by fine-tunes with image augmentation (OpenVLA: area 0.9).

    Follows ``tf.image.crop_and_resize`` with conversions from and to uint8, as in OpenVLA's evaluation scripts: bilinear
    between the centers of the corner pixels, no antialiasing, floor(255.5 x) at the end.

    Args:
        images: uint8 [N, H, W, 3].
        area: fraction of the area to keep.
    """
    scale = math.sqrt(area)
    planes = images.permute(0, 3, 1, 2).float() / 255
    turn = torch.tensor([[scale, 0.0, 0.0], [0.0, scale, 0.0]], device=images.device)
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(planes.shape), align_corners=True)
    cut = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return (cut.clamp(0, 1) * 255.5).floor().clamp(max=255).to(torch.uint8).permute(0, 2, 3, 1)


def _resize_one(image: Image.Image, config: ProcessorConfig) -> Image.Image:
    if config.tvf_do_letterbox:
        image = _letterbox(image, config.tvf_letterbox_fill)
    params = config.tvf_resize_params[0]
    size = params.size if isinstance(params.size, int) else tuple(params.size)
    width, height = image.size
    if isinstance(size, tuple) and len(size) == 2:
        to = (size[1], size[0])
    else:  # the shorter side
        short = size if isinstance(size, int) else size[0]
        to = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    return _center_crop(image.resize(to, Image.Resampling(params.interpolation)), config.tvf_crop_params[0].output_size)


def _letterbox(image: Image.Image, fill: tuple[int, int, int] | None) -> Image.Image:
    """Pad both sides of the shorter edge; with an odd difference one pixel remains, which the crop removes."""
    width, height = image.size
    x, y = (int((max(width, height) - edge) / 2) for edge in (width, height))
    square = Image.new("RGB", (width + 2 * x, height + 2 * y), fill or 0)
    square.paste(image, (x, y))
    return square


def _center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)  # half to even, as torchvision
    return image.crop((left, top, left + width, top + height))
