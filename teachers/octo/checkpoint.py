"""Find a checkpoint, and read everything but its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import read_bytes
from rpd.teachers.extra_weights import check_parts
from rpd.teachers.octo import flax
from rpd.teachers.octo.config import CONFIG, OctoConfig, read_config
from rpd.teachers.octo.language import TOKENIZER
from rpd.teachers.octo.training import FINETUNE, Training
from rpd.teachers.octo.training import read as read_training
from rpd.teachers.vla.action_mapping import FILE as ACTION_MAPPING
from rpd.teachers.vla.checkpoint_dir import MODEL
from rpd.teachers.vla.hub import fetch, subfolders_hint
from rpd.teachers.vla.normalization import FILE as STATISTICS
from rpd.teachers.vla.normalization import read as read_statistics
from rpd.teachers.vla.normalization import write as write_statistics

EXAMPLE, CONVERTED = "example_batch.msgpack", MODEL
NEWER_ORBAX = ("manifest.ocdbt", "d", "ocdbt.process_0", ".zarray", "_sharding", "array_metadatas")
"""Entries in a step's folder that a newer orbax has written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint without its weights."""

    name: str
    """Name given by the user, for messages."""
    config: OctoConfig
    cameras: Mapping[str, tuple[int, int]]
    """Height and width, pixels, of each image in the checkpoint's example."""
    statistics: Mapping[str, Any]
    """dataset_statistics.json: by data set, or of the only one."""
    files: Mapping[str, bytes] = field(repr=False)
    """Content of the small files, by name; `weights.convert` copies them."""

    @property
    def tokenizer(self) -> str | bytes:
        """T5 tokenizer for `language.load_tokenizer`: content of the checkpoint's file, or a name on the hub."""
        name = self.config.tokenizer
        return self.files.get(TOKENIZER, name if "/" in name else f"google-t5/{name}")

    @property
    def training(self) -> Training:
        """Settings of its training, as stored in the checkpoint.

        Raises:
            ConfigError: see `training.read`.
        """
        return read_training(self.config.source, self.files, self.name)

    def with_data(self, statistics: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
        """The same model after fine-tuning, with statistics of new data added and new small files.

        Statistics without a name, of a fine-tune on a single data set, are replaced, as in the original.
        """
        kept = {name: content for name, content in self.files.items() if name != FINETUNE}  # settings of the previous training
        before = {} if "action" in self.statistics else self.statistics
        merged = {**before, **statistics}
        return replace(self, statistics=merged, files={**kept, **files, STATISTICS: write_statistics(merged)})


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read the small files of a checkpoint.

    Args:
        folder: the folder.
        name: name for messages.

    Raises:
        ConfigError: not an Octo checkpoint, or an unsupported one; names the file and the problem.
    """
    if not (folder / CONFIG).is_file():
        where = subfolders_hint(folder, name, CONFIG)
        raise ConfigError(f"{name}: not an Octo checkpoint: no {CONFIG} (it is next to the folders of the steps){where}")
    config = read_config(folder / CONFIG)
    if not (folder / EXAMPLE).is_file():
        raise ConfigError(f"{name}: {EXAMPLE} is missing: it contains the cameras of the model and their sizes")
    example = flax.read(folder / EXAMPLE)
    cameras = {
        key.removeprefix("observation/"): (tensor.shape[2], tensor.shape[3])
        for key, tensor in example.items()
        if key.startswith("observation/image") and tensor.ndim == 5
    }
    kept = (CONFIG, EXAMPLE, STATISTICS, TOKENIZER, ACTION_MAPPING, FINETUNE)
    files = {file: read_bytes(folder / file) for file in kept if (folder / file).is_file()}
    return Checkpoint(name, config, cameras, read_statistics(folder), files)


def checkpoint_folder(name: str, weights: bool) -> Path:
    """Find the folder of a checkpoint; see `rpd.teachers.vla.hub.fetch`. `weights`: whether to download the weights."""
    patterns = ["*.json", "*.yaml", EXAMPLE] + ([CONVERTED, "*/default/checkpoint"] if weights else [])
    return fetch(name, "an Octo checkpoint", patterns, lambda files: check_parts(files, name, "Octo"))


def weights_file(folder: Path, step: int | None = None) -> Path:
    """Find the file with the weights: converted ones, or those of a step.

    Args:
        folder: folder of the checkpoint.
        step: training step; None: the last.

    Raises:
        ConfigError: no weights, not of this step, in a newer orbax's layout, or both converted ones and steps.
    """
    steps = sorted(int(f.name) for f in folder.iterdir() if f.name.isdecimal() and f.is_dir())
    if (folder / CONVERTED).is_file() and step is None:
        if steps:
            raise ConfigError(
                f"{folder}: has {CONVERTED} and step {', '.join(map(str, steps))}, and it is unknown which is newer: "
                "add step=, or move the other one away"
            )
        return folder / CONVERTED
    if (folder / CONVERTED).is_file() and not steps:
        raise ConfigError(f"{folder}: step={step}: this checkpoint was converted, and has only one step")
    if not steps:
        newer = [f for f in (folder, folder / "default") if any((f / mark).exists() for mark in NEWER_ORBAX)]
        if newer:
            raise flax.newer_orbax_error(newer[0])
        raise ConfigError(f"{folder}: has no weights: neither {CONVERTED} nor a folder like 300000/default/checkpoint")
    if step is not None and step not in steps:
        raise ConfigError(f"{folder}: has no step {step}; it has {', '.join(map(str, steps))}")
    inside = folder / str(steps[-1] if step is None else step) / "default"
    if (inside / "checkpoint").is_file():
        return inside / "checkpoint"
    if any((f / mark).exists() for f in (inside, inside.parent) for mark in NEWER_ORBAX):
        raise flax.newer_orbax_error(inside)
    raise ConfigError(f"{inside}: has no file 'checkpoint', in which the weights should be")
