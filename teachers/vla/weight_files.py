"""The safetensors files of a folder in transformers' layout: which ones count, and which tensor lies in which."""

from __future__ import annotations

from pathlib import Path

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import TensorFile, read_object
from rpd.teachers.vla.checkpoint_dir import INDEX, MODEL

PICKLED = {".bin", ".pt", ".pth", ".ckpt"}


def find(folder: Path) -> list[Path]:
    """The files that transformers would read: the single file where there is one, else those that the index lists.

    A model that was saved again as one file, over an older one in shards, leaves the old index in place: it does not count
    (transformers 5.23, modeling_utils._get_resolved_checkpoint_files).

    Raises:
        ConfigError: there are none, the index is damaged or lists what is no file in this folder, or a shard is missing.
    """
    if (folder / MODEL).is_file():
        return [folder / MODEL]
    index = folder / INDEX
    if not index.is_file():
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
        instead = f"; {pickled[0]} holds pickled code, which is not read: save it again as safetensors" if pickled else ""
        raise ConfigError(f"{folder}: has no weights: neither {MODEL} nor {INDEX}{instead}")
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: shard {name} is missing: {index.name} lists {len(names)} files")
    return [folder / name for name in names]


def read(folder: Path) -> dict[str, TensorFile]:
    """Open the weights of a folder: the file of each tensor, by the tensor's name.

    Raises:
        ConfigError: see `find`; or a tensor lies in two files.
    """
    where: dict[str, TensorFile] = {}
    for file in map(TensorFile, find(folder)):
        for name in sorted(file.names):
            if name in where:
                raise ConfigError(f"{file.path}: tensor '{name}' is also in {where[name].path.name}: which one counts?")
            where[name] = file
    return where


def _weight_map(index: Path) -> dict[str, str]:
    """File by tensor, from an index.

    Raises:
        ConfigError: it is damaged, or leads out of its folder.
    """
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ConfigError(f"{index}: not an index of safetensors files: truncated or altered?")
    for name in found.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(f"{index}: lists '{name}', which is not the name of a safetensors file in the same folder")
    return found
