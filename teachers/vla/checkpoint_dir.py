"""Write checkpoint folders (safetensors files and small files) that appear when they are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors.torch import save as save_tensors
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.students.io.files import write_bytes
from rpd.students.io.outputs import staged

MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


def write(
    small: Mapping[str, bytes], tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint in transformers' layout: one file of weights, or shards and an index.

    Args:
        small: content of the small files, by name.
        tensors: weights by name, in the dtype to write; at most `shard_bytes` of them are in memory at a time.
        folder: folder to write; must not exist.
        shard_bytes: size limit of a file.

    Raises:
        ConfigError: the folder exists.
        OSError: e.g. a full disk.
    """
    with staged(folder, _taken(folder)) as temporary:
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


def check_new(folder: Path) -> None:
    """Refuse an existing path.

    Raises:
        ConfigError: names the path.
    """
    if folder.exists():
        raise ConfigError(_taken(folder))


def _taken(folder: Path) -> str:
    return f"{folder} exists already: a checkpoint is written to a new folder"


def _sharded(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Split tensors, in order, into groups of at most `limit` bytes; larger tensors get a group of their own."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard
