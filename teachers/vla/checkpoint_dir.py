"""Checkpoints as folders of safetensors files and small files beside them, that appear when they are whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors.torch import save as save_tensors
from torch import Tensor

from envs.errors import ConfigError
from students.files import sync_folder, write_bytes

MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


def write(
    small: Mapping[str, bytes], tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint in transformers' layout: one file of weights, or shards and an index.

    Args:
        small: content of the small files, by name.
        tensors: by name, in the dtype in which they are to be written; at most `shard_bytes` of them are in memory at a time.
        folder: where to write; it may not exist yet.
        shard_bytes: largest file.

    Raises:
        ConfigError: the folder exists.
        OSError: e.g. a full disk.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        sizes: list[dict[str, int]] = []  # bytes of each tensor, by shard
        for shard in _sharded(tensors, shard_bytes):
            content = {name: tensor.detach().cpu().contiguous() for name, tensor in shard.items()}
            write_bytes(temporary / f"{len(sizes)}.part", save_tensors(content, metadata={"format": "pt"}))
            sizes.append({name: tensor.nbytes for name, tensor in shard.items()})
        count = len(sizes)
        files = [MODEL] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        for i, file in enumerate(files):
            os.rename(temporary / f"{i}.part", temporary / file)
        if count > 1:
            names = {name: file for file, shard in zip(files, sizes, strict=True) for name in shard}
            total = sum(sum(shard.values()) for shard in sizes)
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
            write_bytes(temporary / INDEX, (json.dumps(index, indent=2) + "\n").encode())
        for file, data in small.items():
            write_bytes(temporary / file, data)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Refuse to write over what exists.

    Raises:
        ConfigError: naming it.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already: a checkpoint is written to a new folder")


def _sharded(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Split tensors, in order, into groups of at most `limit` bytes (a tensor that is larger has one of its own)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard
