"""Find a checkpoint in the official layout, and read everything but its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import read_bytes
from rpd.teachers.extra_weights import check_openvla
from rpd.teachers.openvla.config import CONFIG, PREPROCESSOR, OpenVLAConfig, ProcessorConfig, read_model, read_processor
from rpd.teachers.openvla.prompt import STYLES, TOKENIZER, Prompter, style_of
from rpd.teachers.vla import tokenizer as tokenization
from rpd.teachers.vla.action_mapping import FILE as ACTION_MAPPING
from rpd.teachers.vla.hub import fetch, subfolders_hint
from rpd.teachers.vla.normalization import FILE as STATISTICS
from rpd.teachers.vla.normalization import read as read_statistics

KEPT = (
    TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "generation_config.json", ACTION_MAPPING,
)  # fmt: skip
"""Files that are copied unchanged when a checkpoint is saved again."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint without its weights. `weights.save` writes it, with weights, in the official layout."""

    name: str
    """Name given by the user, for messages."""
    config: OpenVLAConfig
    processor: ProcessorConfig
    statistics: Mapping[str, Any]
    """By data set; dataset_statistics.json takes precedence over norm_stats, as fine-tunes only add to the file."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of the other small files, by name: at least tokenizer.json."""

    def style(self, asked: str | None = None) -> str:
        """Prompt style, a key of `prompt.STYLES`: the requested one, or that of the language model's training.

        Raises:
            ConfigError: no request, and config.json does not determine it.
        """
        style = asked or style_of(backbone := self.config.llm_backbone_id)
        if style is None:
            raise ConfigError(
                f"{self.name}: {CONFIG}: llm_backbone_id is {backbone!r}, which does not determine the prompt style: "
                f"add prompt=, one of {', '.join(STYLES)}"
            )
        return style

    def prompter(self, action_dim: int, style: str | None = None) -> Prompter:
        """Build the prompter of this model, with room for the image and `action_dim` action tokens.

        Args:
            action_dim: number of action dimensions, D.
            style: see `style`.

        Raises:
            ConfigError: the tokenizer is missing or does not fit; or see `style`.
        """
        room = min(self.config.llm_max_length, self.config.llama.max_position_embeddings) - self.config.num_patches - action_dim
        if TOKENIZER not in self.files:
            raise ConfigError(f"{self.name}: not an OpenVLA checkpoint: no {TOKENIZER}")
        where = f"{self.name}/{TOKENIZER}"
        tokenizer = tokenization.load(self.files[TOKENIZER], where)
        tokenization.check_ids(tokenizer, self.config.llama.vocab_size, where)
        self._check_action_tokens(tokenizer.get_vocab_size(with_added_tokens=False), where)
        return Prompter(tokenizer, STYLES[self.style(style)], room)

    def _check_action_tokens(self, tokens: int, where: str) -> None:
        """Refuse action tokens at other ids than in training.

        Training counts them back from the end of the tokenizer without added tokens (prismatic/vla/action_tokenizer.py),
        inference from the end of config.json's vocabulary without padding (modeling_prismatic.py).
        """
        if tokens != self.config.vocab:
            raise ConfigError(
                f"{where}: has {tokens} tokens without added ones, but by {CONFIG} action tokens end at {self.config.vocab} "
                f"(text_config.vocab_size {self.config.llama.vocab_size} - pad_to_multiple_of "
                f"{self.config.pad_to_multiple_of}): tokens were added, or it is the tokenizer of another model"
            )

    def with_data(self, statistics: Mapping[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
        """The same model after fine-tuning, with statistics of new data added and new small files."""
        return replace(self, statistics={**self.statistics, **statistics}, files={**self.files, **files})

    def small_files(self) -> dict[str, bytes]:
        """Content of the small files to write with the weights, by name."""
        documents = {
            PREPROCESSOR: self.processor.model_dump(mode="json"),
            STATISTICS: dict(self.statistics),
            CONFIG: self.config.to_json(),
        }
        return {**self.files, **{name: (json.dumps(value, indent=2) + "\n").encode() for name, value in documents.items()}}


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read the small files of a checkpoint folder and check that they are consistent.

    Args:
        folder: the folder.
        name: name for messages.

    Raises:
        ConfigError: not an OpenVLA checkpoint, or an unsupported one; names the file and the problem.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{name}: not an OpenVLA checkpoint: no {CONFIG}{subfolders_hint(folder, name, CONFIG)}")
    config = read_model(folder / CONFIG)
    processor = read_processor(folder, config)
    statistics = {**(config.norm_stats or {}), **read_statistics(folder)}
    files = {file: read_bytes(folder / file) for file in KEPT if (folder / file).is_file()}
    return Checkpoint(name, config, processor, statistics, files)


def checkpoint_folder(name: str, weights: bool) -> Path:
    """Find the folder of a checkpoint: a local one, or from the Hugging Face hub through its cache.

    Args:
        name: see `rpd.teachers.vla.hub.fetch`.
        weights: whether to download the weights, in addition to the small files.

    Raises:
        ConfigError: see `rpd.teachers.vla.hub.fetch`; or a file of another kind of model, see `rpd.teachers.extra_weights`.
    """
    patterns = ["*.json", "*.yaml", "tokenizer.model"] + (["*.safetensors"] if weights else [])
    return fetch(name, "an OpenVLA checkpoint", patterns, lambda files: check_openvla(files, name), skip=("*/*.safetensors",))
