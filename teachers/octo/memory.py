"""Memory estimate of an Octo teacher, from its configuration and file size; reads no weights."""

from __future__ import annotations

import math

import torch

from rpd.envs.specs import EnvSpec
from rpd.students.io.untrusted import TensorFile
from rpd.teachers.base import Footprint
from rpd.teachers.octo.checkpoint import CONVERTED, weights_file
from rpd.teachers.octo.config import ContinuousHead
from rpd.teachers.octo.setup import Setup

PATCH, CHANNELS = 16, 32
"""Pixels per image token, and channels of the first convolution, which halves the image."""


def footprint(setup: Setup, spec: EnvSpec, device: torch.device, rows: int) -> Footprint:
    """See `rpd.teachers.registry.footprint`. Activations are estimated: images in the stems, tokens in a block.

    Raises:
        ConfigError: the folder has no weights.
    """
    config, options = setup.checkpoint.config, setup.options
    file = weights_file(setup.folder, options.step)
    numbers = file.stat().st_size // 4  # msgpack files contain almost only float32
    if file.name == CONVERTED:
        tensors = TensorFile(file)
        numbers = sum(math.prod(tensors.shape(name)) for name in tensors.names)
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
