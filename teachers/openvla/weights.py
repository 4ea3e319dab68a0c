"""The weights of a checkpoint: streamed in shard by shard, and written back in the official layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from envs.errors import ConfigError
from teachers import folders
from teachers.folders import INDEX, MODEL
from teachers.openvla import quantize
from teachers.openvla.checkpoint import Checkpoint
from teachers.openvla.config import OpenVLAConfig
from teachers.openvla.model import OpenVLA


def load(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    bits: quantize.Bits | None = None,
) -> OpenVLA:
    """Build a frozen model from a folder's safetensors.

    The network is made without memory, and each tensor goes from its file to the device by itself: never are there two
    copies of the model.

    Args:
        checkpoint: what `read_checkpoint` made of the folder.
        folder: where the weights are.
        dtype: of the weights and of the arithmetic; 4- or 8-bit weights compute in it too.
        device: where they go.
        bits: store the language model's linear layers in 8 or 4 bits.

    Raises:
        ConfigError: a shard or a tensor is missing, damaged, unexpected or of another shape; names it.
    """
    with torch.device("meta"):
        model = OpenVLA(checkpoint.config)
    expected = {name: list(p.shape) for name, p in model.named_parameters()}
    with ExitStack() as stack:
        shards = [stack.enter_context(_open(file)) for file in _files(folder)]
        where = {name: shard for shard in shards for name in shard.keys()}  # noqa: SIM118  (no mapping)
        _check_names(set(expected), set(where), checkpoint.config, folder)
        if bits is not None:
            quantize.prepare(model.language_model.model, bits, dtype)
        for name, shape in expected.items():
            if (found := where[name].get_slice(name).get_shape()) != shape:
                raise ConfigError(f"{folder}: tensor '{name}' has shape {found}, but the configuration describes {shape}")
        for name in expected:
            _assign(model, name, where[name].get_tensor(name).to(device, dtype))
    model.rebuild_rotary(torch.device(device))
    return model.eval().requires_grad_(False)


def save(
    checkpoint: Checkpoint, tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = folders.SHARD_BYTES
) -> None:
    """Write a checkpoint in the official layout, which `load` reads again. The folder appears when it is whole.

    What inference does not use is not written: the original code fills it at random, and does not use it either.

    Args:
        checkpoint: everything but the weights.
        tensors: the model's parameters by name, in the dtype in which they are to be written; at most `shard_bytes` of them
            are in memory at a time.
        folder: where to write; it may not exist yet.
        shard_bytes: largest file.

    Raises:
        ConfigError: the folder exists.
        OSError: e.g. a full disk.
    """
    folders.write(checkpoint.small_files(), tensors, folder, shard_bytes)


def unused(config: OpenVLAConfig) -> re.Pattern[str]:
    """The tensors that a checkpoint may have and inference never reads: what comes after each backbone's features."""
    backbones = zip(("featurizer", "fused_featurizer"), config.vits(), strict=False)
    parts = [rf"{name}\.(blocks\.{vit.depth - 1}\.|norm\.(weight|bias)$|attn_pool\.)" for name, vit in backbones]
    return re.compile(rf"vision_backbone\.({'|'.join(parts)})")


def _files(folder: Path) -> list[Path]:
    """The weight files of a folder.

    Raises:
        ConfigError: there are none, or one that the index names is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / MODEL).is_file():
            raise ConfigError(f"{folder}: has no weights: neither {MODEL} nor {INDEX}")
        return [folder / MODEL]
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(f"{index}: not an index of safetensors files: truncated or altered?") from None
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: shard {name} is missing: {index.name} lists {len(names)} files")
    return [folder / name for name in names]


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: not a safetensors file, or a damaged one ({error})") from None


def _check_names(expected: set[str], found: set[str], config: OpenVLAConfig, folder: Path) -> None:
    if missing := sorted(expected - found):
        raise ConfigError(f"{folder}: tensor '{missing[0]}' is missing" + _others(missing))
    ignored = unused(config)
    if extra := sorted(name for name in found - expected if not ignored.match(name)):
        raise ConfigError(f"{folder}: unexpected tensor '{extra[0]}'{_others(extra)}: config.json describes no such thing")


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where the model has a parameter without memory."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    few = leaf == "weight" and quantize.prepared(module)
    setattr(module, leaf, quantize.parameter(module, tensor) if few else nn.Parameter(tensor, requires_grad=False))
