"""Flax's msgpack files, read and written with msgpack and torch alone.

A map of maps with string keys; leaves are extension types whose payload is msgpack again: (shape, dtype name, raw C-order
little-endian bytes) [flax/serialization.py].
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.errors import ConfigError

try:
    import msgpack
except ImportError:
    raise ConfigError("teacher octo needs msgpack, which is not installed: pip install 'rpd[vla]'") from None

ARRAY, SCALAR = 1, 3
"""Codes of the extension types."""
PLACEHOLDER = "PLACEHOLDER://"
"""What orbax writes for an array that it keeps in a folder of its own."""


def read(path: Path) -> dict[str, Tensor]:
    """Read all arrays of a file, by their path with slashes.

    The file is mapped, not loaded: the arrays are the only copy.

    Raises:
        ConfigError: it cannot be read, is truncated, or its arrays lie elsewhere; names it.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            tree = msgpack.unpackb(content, ext_hook=_leaf, strict_map_key=True)
        return dict(_flat(tree, ""))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except _ElsewhereError:
        raise elsewhere(path.parent) from None
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: not a whole msgpack file of flax ({reason}): truncated or altered?") from None


def write(tensors: dict[str, Tensor]) -> bytes:
    """The content of a file that `read` reads, from arrays by their path with slashes."""
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tensor
    return msgpack.packb(tree, default=_pack)


def elsewhere(folder: Path) -> ConfigError:
    """The error for a folder in which a newer orbax has put every array in files of its own."""
    return ConfigError(
        f"{folder}: written by a newer orbax as OCDBT or zarr, which cannot be read here: what is needed is the one msgpack "
        "file 'checkpoint' that Octo's own versions write (orbax-checkpoint 0.4.4 with jax 0.4.20); load and save it with those"
    )


class _ElsewhereError(Exception):
    pass


def _flat(tree: dict[str, Any], prefix: str) -> list[tuple[str, Tensor]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor):
            found.append((prefix + key, value))
        elif isinstance(value, str) and value.startswith(PLACEHOLDER):
            raise _ElsewhereError
        else:
            raise ValueError(f"{prefix}{key} is no array")
    return found


def _leaf(code: int, payload: bytes) -> Tensor:
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"extension type {code}")
    shape, name, data = msgpack.unpackb(payload, raw=True)
    dtype = name.decode()
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype)  # numpy has no bfloat16
    if stored.itemsize * math.prod(shape) != len(data):
        raise ValueError(f"an array {shape} of {dtype} with {len(data)} bytes")
    tensor = torch.from_numpy(np.frombuffer(data, stored).reshape(shape).copy())
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _pack(tensor: Tensor) -> msgpack.ExtType:
    array, name = tensor.contiguous(), str(tensor.dtype).removeprefix("torch.")
    data = (array.view(torch.uint16) if tensor.dtype == torch.bfloat16 else array).numpy().tobytes()
    return msgpack.ExtType(ARRAY, msgpack.packb((list(tensor.shape), name, data)))
