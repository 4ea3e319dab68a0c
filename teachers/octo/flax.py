"""Read and write flax's msgpack files with msgpack and torch only.

A file is a map of maps with string keys; leaves are extension types with a msgpack payload: (shape, dtype name, raw C-order
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

from rpd.envs.errors import ConfigError, missing_package
from rpd.students.io.untrusted import check_not_pointer

try:
    import msgpack
except ImportError:
    raise missing_package("teacher octo", "msgpack", "vla") from None

ARRAY, SCALAR = 1, 3
"""Codes of the extension types."""
PLACEHOLDER = "PLACEHOLDER://"
"""Prefix that orbax writes for arrays stored in separate folders."""


def read(path: Path) -> dict[str, Tensor]:
    """Read all arrays of a file, by path with slashes.

    The file is memory-mapped: the arrays are the only copy.

    Raises:
        ConfigError: the file cannot be read, is truncated, or refers to arrays in other files; names it.
    """
    try:
        check_not_pointer(path)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            tree = msgpack.unpackb(content, ext_hook=_leaf, strict_map_key=True)
        return dict(_flat(tree, ""))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except _SeparateArraysError:
        raise newer_orbax_error(path.parent) from None
    except (ValueError, TypeError, AttributeError, RecursionError, msgpack.UnpackException) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: not a complete msgpack file of flax ({reason}): truncated or altered?") from None


def write(tensors: dict[str, Tensor]) -> bytes:
    """Encode arrays by path with slashes as the content of a file for `read`."""
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tensor
    return msgpack.packb(tree, default=_pack)


def newer_orbax_error(folder: Path) -> ConfigError:
    """Error for a folder whose arrays are in separate files, as written by a newer orbax."""
    return ConfigError(
        f"{folder}: written by a newer orbax as OCDBT or zarr, which is not supported: needs the msgpack file 'checkpoint' "
        "of Octo's own versions (orbax-checkpoint 0.4.4 with jax 0.4.20); load and save it with those"
    )


class _SeparateArraysError(Exception):
    pass


def _flat(tree: dict[str, Any], prefix: str) -> list[tuple[str, Tensor]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor):
            found.append((prefix + key, value))
        elif isinstance(value, str) and value.startswith(PLACEHOLDER):
            raise _SeparateArraysError
        else:
            raise ValueError(f"{prefix}{key} is not an array")
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
