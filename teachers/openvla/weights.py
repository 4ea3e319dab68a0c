"""Load the weights of a checkpoint shard by shard, and write them in the official layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla import quantize
from rpd.teachers.openvla.checkpoint import Checkpoint
from rpd.teachers.openvla.config import OpenVLAConfig
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.vla import checkpoint_dir, weight_files


def load(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    bits: quantize.Bits | None = None,
) -> OpenVLA:
    """Build a frozen model from the safetensors in a folder.

    The network is built on the meta device, and each tensor is moved from its file to the device separately: there are never
    two copies of the model.

    Args:
        checkpoint: result of `read_checkpoint`.
        folder: folder with the weights.
        dtype: dtype of weights and activations, also for 4- or 8-bit weights.
        device: target device.
        bits: bits of the language model's linear layers, 8 or 4.

    Raises:
        ConfigError: a shard or a tensor is missing, damaged, unexpected or of another shape; names it.
    """
    with torch.device("meta"):
        model = OpenVLA(checkpoint.config)
    expected = {name: list(p.shape) for name, p in model.named_parameters()}
    where = weight_files.read(folder)
    _check_names(set(expected), set(where), checkpoint.config, folder)
    if bits is not None:
        quantize.prepare(model.language_model.model, bits, dtype)
    for name, shape in expected.items():
        if (found := where[name].shape(name)) != shape:
            raise ConfigError(f"{folder}: tensor '{name}' has shape {found}, but the configuration describes {shape}")
    for name in expected:
        _assign(model, name, where[name].take(name).to(device, dtype))
    model.rebuild_rotary(torch.device(device))
    return model.eval().requires_grad_(False)


def save(
    checkpoint: Checkpoint, tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = checkpoint_dir.SHARD_BYTES
) -> None:
    """Write a checkpoint in the official layout, for `load`. The folder appears when it is complete.

    Tensors that inference does not use are not written: the original code initializes them randomly and does not use them
    either.

    Args:
        checkpoint: the checkpoint without its weights.
        tensors: the model's parameters by name, in the dtype to write; at most `shard_bytes` of them are in memory at a time.
        folder: folder to write; must not exist.
        shard_bytes: size limit of a file.

    Raises:
        ConfigError: the folder exists.
        OSError: e.g. a full disk.
    """
    checkpoint_dir.write(checkpoint.small_files(), tensors, folder, shard_bytes)


def unused(config: OpenVLAConfig) -> re.Pattern[str]:
    """Pattern of tensors that a checkpoint may have and inference never reads: layers after each backbone's features."""
    backbones = zip(("featurizer", "fused_featurizer"), config.vits(), strict=False)
    parts = [rf"{name}\.(blocks\.{vit.depth - 1}\.|norm\.(weight|bias)$|attn_pool\.)" for name, vit in backbones]
    return re.compile(rf"vision_backbone\.({'|'.join(parts)})")


def _check_names(expected: set[str], found: set[str], config: OpenVLAConfig, folder: Path) -> None:
    if missing := sorted(expected - found):
        raise ConfigError(f"{folder}: tensor '{missing[0]}' is missing" + _others(missing))
    ignored = unused(config)
    if extra := sorted(name for name in found - expected if not ignored.match(name)):
        raise ConfigError(f"{folder}: unexpected tensor '{extra[0]}'{_others(extra)}: not part of the model in config.json")


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Assign a tensor to a parameter on the meta device."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    few = leaf == "weight" and quantize.prepared(module)
    setattr(module, leaf, quantize.parameter(module, tensor) if few else nn.Parameter(tensor, requires_grad=False))
