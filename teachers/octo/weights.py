"""The weights of a checkpoint: from the original's msgpack file, or from the safetensors that `convert` makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from envs.errors import ConfigError
from teachers import folders
from teachers.octo import flax
from teachers.octo.checkpoint import CONVERTED, Checkpoint, weights_file
from teachers.octo.config import OctoConfig
from teachers.octo.language import t5_encoder, t5_sizes
from teachers.octo.model import Octo
from teachers.octo.names import from_original, original


class Source(Protocol):
    """Tensors by our names."""

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor.

        Raises:
            ConfigError: there is no such tensor.
        """

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""

    def take(self, name: str) -> Tensor:
        """A tensor, which is then forgotten."""

    def rest(self) -> list[str]:
        """Names of what was not taken, as the file has them."""


def load(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    step: int | None = None,
) -> Octo:  # fmt: skip
    """Build a frozen model from a folder's weights.

    Args:
        checkpoint: what `read_checkpoint` made of the folder.
        folder: where the weights are.
        dtype: of all but the head, which is float32.
        device: where they go.
        step: of training; None: the last.

    Raises:
        ConfigError: a tensor is missing, unexpected or of another shape, or the file damaged; names it.
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
        raise ConfigError(f"{file}: unexpected tensor '{rest[0]}'{more}: config.json describes no such thing")
    model.t5.set_input_embeddings(model.t5.shared)  # the encoder's own reference is still without memory
    return model.eval()


def build(config: OctoConfig, source: Source, file: Path) -> Octo:
    """The model that a source has tensors for, without memory.

    A tokenizer that has none was skipped when the original was made, because its data lacked that camera.
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
    """Write a checkpoint anew as one safetensors file with our names, beside its small files. It appears when it is whole.

    Raises:
        ConfigError: see `load`; or the folder exists.
        OSError: e.g. a full disk.
    """
    model = load(checkpoint, source, step=step)
    folders.write(checkpoint.files, model.named_parameters(), folder)
    return model


class _Original:
    """The original's tree."""

    def __init__(self, file: Path, head: str) -> None:
        self.file, self.head = file, head
        self.tree = flax.read(file)

    def has(self, name: str) -> bool:
        return original(name, self.head) in self.tree

    def shape(self, name: str) -> list[int]:
        return list(from_original(*self._find(name)).shape)

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
    """A safetensors file, of which each tensor is read when it is taken."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.tensors: Any = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file}: not a safetensors file, or a damaged one ({error})") from None
        self.names = set(self.tensors.keys())

    def has(self, name: str) -> bool:
        return name in self.names

    def shape(self, name: str) -> list[int]:
        if name not in self.tensors.keys():  # noqa: SIM118  (no mapping)
            raise ConfigError(f"{self.file}: tensor '{name}' is missing")
        return list(self.tensors.get_slice(name).get_shape())

    def take(self, name: str) -> Tensor:
        self.names.discard(name)
        return self.tensors.get_tensor(name)

    def rest(self) -> list[str]:
        return sorted(self.names)


def _open(file: Path, head: str) -> Source:
    return _Converted(file) if file.name == CONVERTED else _Original(file, head)
