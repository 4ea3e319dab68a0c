"""A checkpoint without its weights: where it is, and what its small files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.errors import ConfigError
from teachers.bridge import FILE as BRIDGE
from teachers.folders import MODEL
from teachers.hub import fetch
from teachers.octo import flax
from teachers.octo.config import CONFIG, OctoConfig, read_config
from teachers.octo.language import TOKENIZER
from teachers.statistics import FILE as STATISTICS
from teachers.statistics import read as read_statistics
from teachers.statistics import write as write_statistics

EXAMPLE, CONVERTED = "example_batch.msgpack", MODEL
NEWER_ORBAX = ("manifest.ocdbt", "d", "ocdbt.process_0", ".zarray", "_sharding", "array_metadatas")
"""What lies in a step's folder that a newer orbax wrote."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything but the weights."""

    name: str
    """As a person wrote it, for messages."""
    config: OctoConfig
    cameras: Mapping[str, tuple[int, int]]
    """Height and width, pixels, of each image in the example that came with it."""
    statistics: Mapping[str, Any]
    """dataset_statistics.json: by data set, or of the only one."""
    files: Mapping[str, bytes] = field(repr=False)
    """Content of the small files, by name; `weights.convert` carries them over."""

    @property
    def tokenizer(self) -> str | bytes:
        """Its T5 tokenizer for `language.load_tokenizer`: the content of its own, or the name of one on the hub."""
        name = self.config.tokenizer
        return self.files.get(TOKENIZER, name if "/" in name else f"google-t5/{name}")

    def with_data(self, statistics: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
        """The same model after fine-tuning: statistics of new data beside those it has, and new small files.

        The statistics of a fine-tune on one data set, which have no name, give way, as in the original.
        """
        before = {} if "action" in self.statistics else self.statistics
        merged = {**before, **statistics}
        return replace(self, statistics=merged, files={**self.files, **files, STATISTICS: write_statistics(merged)})


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read the small files of a checkpoint.

    Args:
        folder: where it is.
        name: what to call it.

    Raises:
        ConfigError: it is no Octo checkpoint, or one that is not supported; names the file and what is wrong.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{name}: not an Octo checkpoint: no {CONFIG} (it lies beside the folders of the steps)")
    config = read_config(folder / CONFIG)
    if not (folder / EXAMPLE).is_file():
        raise ConfigError(f"{name}: {EXAMPLE} is missing: it says which cameras the model sees, at which size")
    example = flax.read(folder / EXAMPLE)
    cameras = {
        key.removeprefix("observation/"): (tensor.shape[2], tensor.shape[3])
        for key, tensor in example.items()
        if key.startswith("observation/image") and tensor.ndim == 5
    }
    kept = (CONFIG, EXAMPLE, STATISTICS, TOKENIZER, BRIDGE)
    files = {file: (folder / file).read_bytes() for file in kept if (folder / file).is_file()}
    return Checkpoint(name, config, cameras, read_statistics(folder), files)


def locate(name: str, weights: bool) -> Path:
    """Find a checkpoint's folder; see `teachers.hub.fetch`. `weights`: whether to download the weights too."""
    patterns = ["*.json", "*.yaml", EXAMPLE] + ([CONVERTED, "*/default/checkpoint"] if weights else [])
    return fetch(name, "an Octo checkpoint", patterns)


def weights_file(folder: Path, step: int | None = None) -> Path:
    """The file with the weights: converted ones, or those of a step.

    Args:
        folder: of the checkpoint.
        step: of training; None: the last.

    Raises:
        ConfigError: there are none, not of this step, or in a newer orbax's layout.
    """
    if (folder / CONVERTED).is_file():
        if step is not None:
            raise ConfigError(f"{folder}: step={step}: this checkpoint was converted, and has only one step")
        return folder / CONVERTED
    steps = sorted(int(f.name) for f in folder.iterdir() if f.name.isdecimal() and f.is_dir())
    if not steps:
        newer = [f for f in (folder, folder / "default") if any((f / mark).exists() for mark in NEWER_ORBAX)]
        if newer:
            raise flax.elsewhere(newer[0])
        raise ConfigError(f"{folder}: has no weights: neither {CONVERTED} nor a folder like 300000/default/checkpoint")
    if step is not None and step not in steps:
        raise ConfigError(f"{folder}: has no step {step}; it has {', '.join(map(str, steps))}")
    inside = folder / str(steps[-1] if step is None else step) / "default"
    if (inside / "checkpoint").is_file():
        return inside / "checkpoint"
    if any((f / mark).exists() for f in (inside, inside.parent) for mark in NEWER_ORBAX):
        raise flax.elsewhere(inside)
    raise ConfigError(f"{inside}: has no file 'checkpoint', in which the weights should be")
