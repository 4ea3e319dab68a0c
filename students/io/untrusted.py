"""Read files written by other programs; damaged or foreign content raises a one-line error that names the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rpd.envs.errors import ConfigError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The torch dtypes of `FLOATS`."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Accepted dtypes of weights, in safetensors' names. Other dtypes are quantization codes, unusable without their scales."""


def check_not_pointer(path: Path) -> None:
    """Refuse a git-lfs pointer in place of the file.

    Raises:
        ConfigError: the file is a git-lfs pointer.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ConfigError(f"{path}: a git-lfs pointer in place of the file: run 'git lfs pull' in its repository")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        ConfigError: the file cannot be read or is a git-lfs pointer.
    """
    try:
        check_not_pointer(path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: content of the file.
        where: path of the file, for messages.

    Raises:
        ConfigError: the content is not JSON, not an object, nested too deeply, or has a duplicate key.
    """
    try:
        values = json.loads(content, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
        raise ConfigError(f"{where}: not valid JSON ({str(error)[:100]}): truncated or altered?") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: not valid JSON of this kind (an object is expected): truncated or altered?")
    return values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; duplicate keys are an error, as either value may be the intended one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is there twice")
    return found


def check_weights(tensors: Mapping[Any, Any], where: str) -> None:
    """Refuse weights that are not dense floating-point tensors of at least 16 bits.

    Args:
        tensors: weights by name.
        where: path of the file, for messages.

    Raises:
        ConfigError: names the first invalid entry.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ConfigError(f"{where}: {name!r} is of type {type(tensor).__name__}, and tensors by name are expected")
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
            raise ConfigError(
                f"{where}: tensor '{name}' is {str(tensor.dtype).removeprefix('torch.')}, {tensor.layout}, {tensor.device}: "
                "weights must be dense and floating point of 16 bits or more"
            )


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ConfigError: see `read_bytes` and `parse_object`.
    """
    return parse_object(read_bytes(path), str(path))


class TensorFile:
    """A safetensors file; tensors are read on demand.

    Attributes:
        path: path of the file.
        names: names of its tensors.

    Raises:
        ConfigError: the file cannot be read, is a git-lfs pointer, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_not_pointer(path)
            self._file: Any = safe_open(path, framework="pt")
            self.names = set(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: not a safetensors file, or a damaged one ({error})") from None

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor.

        Raises:
            ConfigError: the tensor does not exist, or its dtype is not one of `FLOATS`.
        """
        if name not in self.names:
            raise ConfigError(f"{self.path}: tensor '{name}' is missing")
        found = self._file.get_slice(name)
        if (dtype := found.get_dtype()) not in FLOATS:
            raise ConfigError(
                f"{self.path}: tensor '{name}' is {dtype}, not floating point of 16 bits or more: "
                "quantized weights are not supported; save the model without quantization"
            )
        return list(found.get_shape())

    def take(self, name: str) -> Tensor:
        """Read a tensor."""
        return self._file.get_tensor(name)
