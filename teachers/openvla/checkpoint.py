"""A checkpoint in the official layout, without its weights: where it is, and what its small files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.errors import ConfigError
from teachers.bridge import FILE as BRIDGE
from teachers.hub import fetch
from teachers.openvla.config import CONFIG, PREPROCESSOR, OpenVLAConfig, ProcessorConfig, read
from teachers.openvla.prompt import TEMPLATE, TEMPLATE_V01, TOKENIZER, Prompter, load_tokenizer
from teachers.statistics import FILE as STATISTICS
from teachers.statistics import read as read_statistics

KEPT = (
    TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "generation_config.json", BRIDGE,
)  # fmt: skip
"""Files that are carried over as they are when a checkpoint is saved again."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything but the weights. `weights.save` writes it, with them, in the official layout."""

    name: str
    """As a person wrote it, for messages."""
    config: OpenVLAConfig
    processor: ProcessorConfig
    statistics: Mapping[str, Any]
    """By data set; dataset_statistics.json over the configuration's norm_stats: fine-tunes add theirs only to the file."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of the other small files, by name: at least tokenizer.json."""

    def prompter(self, action_dim: int) -> Prompter:
        """The prompts of this model, which leave room for the image and `action_dim` action tokens.

        Raises:
            ConfigError: no tokenizer, or one that does not fit.
        """
        positions = self.config.text_config.get("max_position_embeddings", 2048)
        room = min(self.config.llm_max_length, positions) - self.config.num_patches - action_dim
        old = self.config.llm_backbone_id.startswith("vicuna") or "v01" in Path(self.name).name
        if TOKENIZER not in self.files:
            raise ConfigError(f"{self.name}: not an OpenVLA checkpoint: no {TOKENIZER}")
        return Prompter(load_tokenizer(self.files[TOKENIZER], self.name), TEMPLATE_V01 if old else TEMPLATE, room)

    def with_data(self, statistics: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
        """The same model after fine-tuning: statistics of new data beside those it has, and new small files."""
        return replace(self, statistics={**self.statistics, **statistics}, files={**self.files, **files})

    def small_files(self) -> dict[str, bytes]:
        """What to write beside the weights, by name."""
        documents = {
            PREPROCESSOR: self.processor.model_dump(mode="json"),
            STATISTICS: dict(self.statistics),
            CONFIG: self.config.to_json(),
        }
        return {**self.files, **{name: (json.dumps(value, indent=2) + "\n").encode() for name, value in documents.items()}}


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read the small files of a checkpoint folder and check that they fit together.

    Args:
        folder: where it is.
        name: what to call it.

    Raises:
        ConfigError: it is no OpenVLA checkpoint, or one that is not supported; names the file and what is wrong.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{name}: not an OpenVLA checkpoint: no {CONFIG}")
    config, processor = read(OpenVLAConfig, folder / CONFIG), read(ProcessorConfig, folder / PREPROCESSOR)
    try:
        config.check()
        processor.check(config)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    statistics = {**(config.norm_stats or {}), **read_statistics(folder)}
    files = {file: (folder / file).read_bytes() for file in KEPT if (folder / file).is_file()}
    return Checkpoint(name, config, processor, statistics, files)


def locate(name: str, weights: bool) -> Path:
    """Find a checkpoint's folder: a local one, or from the Hugging Face hub through its cache.

    Args:
        name: a folder, ``org/model``, ``hf://org/model`` or either with ``@revision``.
        weights: whether to download the weights too, or only what describes them.

    Raises:
        ConfigError: there is no such folder or model, or the hub cannot be reached and the cache does not have it.
    """
    patterns = ["*.json", "*.yaml", "tokenizer.model"] + (["*.safetensors"] if weights else [])
    return fetch(name, "an OpenVLA checkpoint", patterns)
