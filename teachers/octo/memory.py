"""What an Octo teacher takes of memory, from its configuration and the size of its file; reads no weights."""

from __future__ import annotations

import torch
from safetensors import safe_open

from envs.specs import EnvSpec
from teachers.base import Footprint
from teachers.octo.checkpoint import CONVERTED, weights_file
from teachers.octo.config import ContinuousHead
from teachers.octo.setup import Setup

PATCH, CHANNELS = 16, 32
"""Of an image's tokens, and of the first convolution, which halves the image."""


def footprint(setup: Setup, spec: EnvSpec, device: torch.device, rows: int) -> Footprint:
    """See `teachers.registry.footprint`. The activations of a pass are estimated: images in the stems, tokens in a block.

    Raises:
        ConfigError: there are no weights in the folder.
    """
    config, options = setup.checkpoint.config, setup.options
    file = weights_file(setup.folder, options.step)
    numbers = file.stat().st_size // 4  # msgpack: next to nothing but float32
    if file.name == CONVERTED:
        with safe_open(file, "pt") as tensors:
            numbers = sum(torch.Size(tensors.get_slice(name).get_shape()).numel() for name in tensors.keys())  # noqa: SIM118
    size = 2 if options.dtype == "bf16" else 4
    sizes = [setup.checkpoint.cameras[key] for key in setup.cameras]
    batch, pixels = min(rows, options.batch) * options.window, sum(height * width for height, width in sizes)
    tokens = pixels // PATCH**2 + 2 * config.max_tokens
    block = tokens * (4 * config.width + 2 * config.transformer.mlp_dim)
    stem = pixels * 3 + 2 * pixels // 4 * CHANNELS
    random = not isinstance(config.head, ContinuousHead)
    dims = spec.action.dim
    label: dict[str, tuple[int, ...]] = {"mean": (dims,)}
    label |= {"std": (dims,), "samples": (options.samples, dims)} if random else {}
    return Footprint(numbers * size, batch * (block + stem) * size, label)
