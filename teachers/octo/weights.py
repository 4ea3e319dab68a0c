"""Load the weights of a checkpoint, from the original's msgpack file or the safetensors file of `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import TensorFile
from rpd.teachers.octo import flax
from rpd.teachers.octo.checkpoint import CONVERTED, Checkpoint, weights_file
from rpd.teachers.octo.config import OctoConfig
from rpd.teachers.octo.language import t5_encoder, t5_sizes
from rpd.teachers.octo.model import Octo
from rpd.teachers.octo.param_names import from_original, original
from rpd.teachers.vla import checkpoint_dir


class Source(Protocol):
    """Tensors by our parameter names."""

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor.

        Raises:
            ConfigError: the tensor does not exist.
        """

    def has(self, name: str) -> bool:
        """Return whether a tensor exists."""

    def take(self, name: str) -> Tensor:
        """Return a tensor and release it."""

    def rest(self) -> list[str]:
        """Names of tensors that were not taken, as in the file."""


def load(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    step: int | None = None,
) -> Octo:  # fmt: skip
    """Build a frozen model from the weights in a folder.

    Args:
        checkpoint: result of `read_checkpoint`.
        folder: folder with the weights.
        dtype: dtype of everything but the head, which is float32.
        device: target device.
        step: training step; None: the last.

    Raises:
        ConfigError: a tensor is missing, unexpected or of another shape, or the file is damaged; names it.
    """
    file = weights_file(folder, step)
    source = _open(file, checkpoint.config.head_name)
    model = build(checkpoint.config, source, file)
    for name, parameter in list(model.named_parameters()):
        if source.shape(name) != list(parameter.shape):
            raise ConfigError(
                f"{file}: tensor '{name}' has shape {source.shape(name)}, the configuration describes {list(parameter.shape)}"
            )
        tensor = source.take(name).to(device, torch.float32 if name.startswith("head.") else dtype).contiguous()
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))
    if rest := source.rest():
        more = f" (and {len(rest) - 1} more)" if len(rest) > 1 else ""
        raise ConfigError(f"{file}: unexpected tensor '{rest[0]}'{more}: not part of the model in config.json")
    model.t5.set_input_embeddings(model.t5.shared)  # the encoder's own reference is still on the meta device
    return model.eval()


def build(config: OctoConfig, source: Source, file: Path) -> Octo:
    """Build the model on the meta device, with the image tokenizers that have tensors in the source.

    The original skipped tokenizers whose camera was missing in its data.
    """
    sizes = {
        name: (source.shape(f"stems.{name}.convs.0.weight")[1], source.shape(f"positions.obs_{name}")[2])
        for name in config.images
        if source.has(f"positions.obs_{name}")
    }
    if not sizes:
        raise ConfigError(f"{file}: has tensors of none of the image tokenizers {', '.join(config.images)}")
    with torch.device("meta"):
        return Octo(config, t5_encoder(**t5_sizes(source.shape, source.has)), sizes)


def convert(checkpoint: Checkpoint, source: Path, folder: Path, step: int | None = None) -> Octo:
    """Convert a checkpoint to one safetensors file with our names and its small files; appears when it is complete.

    Raises:
        ConfigError: see `load`; or the folder exists.
        OSError: e.g. a full disk.
    """
    model = load(checkpoint, source, step=step)
    checkpoint_dir.write(checkpoint.files, model.named_parameters(), folder)
    return model


class _Original:
    """Source for the original's parameter tree."""

    def __init__(self, file: Path, head: str) -> None:
        self.file, self.head = file, head
        self.tree = flax.read(file)

    def has(self, name: str) -> bool:
        return original(name, self.head) in self.tree

    def shape(self, name: str) -> list[int]:
        path, tensor = self._find(name)
        if not tensor.is_floating_point() or tensor.itemsize < 2:
            raise ConfigError(f"{self.file}: tensor '{path}' is {tensor.dtype}: weights must be floating point")
        return list(from_original(path, tensor).shape)

    def take(self, name: str) -> Tensor:
        path, tensor = self._find(name)
        del self.tree[path]
        return from_original(path, tensor)

    def rest(self) -> list[str]:
        return sorted(self.tree)

    def _find(self, name: str) -> tuple[str, Tensor]:
        path = original(name, self.head)
        if path not in self.tree:
            raise ConfigError(f"{self.file}: tensor '{path}' is missing")
        return path, self.tree[path]


class _Converted:
    """Source for a safetensors file; tensors are read when they are taken."""

    def __init__(self, path: Path) -> None:
        self.file = TensorFile(path)
        self.names = set(self.file.names)

    def has(self, name: str) -> bool:
        return name in self.names

    def shape(self, name: str) -> list[int]:
        return self.file.shape(name)

    def take(self, name: str) -> Tensor:
        self.names.discard(name)
        return self.file.take(name)

    def rest(self) -> list[str]:
        return sorted(self.names)


def _open(file: Path, head: str) -> Source:
    return _Converted(file) if file.name == CONVERTED else _Original(file, head)
