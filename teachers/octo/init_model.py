"""Create models of the released sizes or smaller, with random weights, and write checkpoints in the original's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from rpd.teachers.octo import flax
from rpd.teachers.octo.checkpoint import EXAMPLE, Checkpoint
from rpd.teachers.octo.config import CONFIG, OctoConfig, parse_config
from rpd.teachers.octo.language import EOS, PAD, TOKENIZER, t5_encoder
from rpd.teachers.octo.model import Octo
from rpd.teachers.octo.param_names import original, to_original
from rpd.teachers.vla import model_sizes
from rpd.teachers.vla import tokenizer as tokenization
from rpd.teachers.vla.normalization import FILE as STATISTICS
from rpd.teachers.vla.normalization import write as write_statistics

T5_VOCABULARY = 32128
SPECIAL = ("<pad>", "</s>", "<unk>")
"""T5's first tokens, in the order of their ids."""
assert (SPECIAL[PAD], SPECIAL[EOS]) == ("<pad>", "</s>")


class Size(BaseModel):
    """A size preset, a file in sizes/; the defaults are those of the released models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cameras: dict[str, int]
    """Height and width in pixels, multiples of 16, by the name of the image."""
    goal_images: bool = True
    """Whether it accepts goal images."""
    width: int
    """Width of the transformer's tokens."""
    layers: int
    heads: int
    mlp: int
    features: tuple[int, int, int, int]
    """Channels of the stem's convolutions, multiples of 32."""
    stem_width: int
    t5: dict[str, int]
    """Sizes of T5, see `language.t5_sizes`; without the vocabulary size."""
    head: dict[str, int | float] = Field(default={"action_horizon": 4})
    """Arguments of its DiffusionActionHead; see `config.DiffusionHead`."""
    max_horizon: int = 10
    repeat_task_tokens: bool = True


def read_size(name: str) -> Size:
    """Read a size preset.

    Raises:
        ConfigError: the preset does not exist.
    """
    return Size.model_validate(model_sizes.read("octo", name))


def new_config(size: Size, action_dim: int) -> OctoConfig:
    """Configuration of a model with the released models' kind of head and a trainable T5.

    Args:
        size: the size preset.
        action_dim: action dimensions, A.
    """
    stem = {"features": list(size.features), "num_features": size.stem_width}

    def tokenizer(key: str) -> dict[str, Any]:
        encoder = _record("SmallStem16", "octo.model.components.vit_encoders", stem)
        shown = {"obs_stack_keys": [key], "task_stack_keys": [key] if size.goal_images else []}
        return _record("ImageTokenizer", "octo.model.components.tokenizers", {**shown, "encoder": encoder})

    words = {"encoder": "t5-base", "finetune_encoder": True}
    head = {"readout_key": "readout_action", "use_map": False, "action_dim": action_dim, **size.head}
    model = {
        "observation_tokenizers": {key.removeprefix("image_"): tokenizer(key) for key in size.cameras},
        "task_tokenizers": {"language": _record("LanguageTokenizer", "octo.model.components.tokenizers", words)},
        "heads": {"action": _record("DiffusionActionHead", "octo.model.components.action_heads", head)},
        "readouts": {"action": 1},
        "token_embedding_size": size.width,
        "transformer_kwargs": {"num_layers": size.layers, "num_attention_heads": size.heads, "mlp_dim": size.mlp},
        "max_horizon": size.max_horizon,
        "repeat_task_tokens": size.repeat_task_tokens,
        "use_correct_attention": True,
    }
    return parse_config({"model": model}, "a new octo")


def new_model(config: OctoConfig, size: Size, vocabulary_size: int = T5_VOCABULARY) -> Octo:
    """Build the network of `new_config` with random weights."""
    channels = 6 if size.goal_images else 3
    images = {key.removeprefix("image_"): (channels, (side // 16) ** 2) for key, side in size.cameras.items()}
    return Octo(config, t5_encoder(**size.t5, vocab_size=vocabulary_size, relative_attention_num_buckets=32), images)


def new_checkpoint(
    name: str, instructions: Iterable[str], statistics: Mapping[str, Any], size: Size, action_dim: int,
    files: Mapping[str, bytes],
) -> tuple[Checkpoint, Octo]:  # fmt: skip
    """Create a model with random weights and its own vocabulary: T5's is larger than the rest of a small model.

    Args:
        name: name for messages.
        instructions: instructions for the vocabulary; other text is tokenized to bytes.
        statistics: action statistics by data set: ``{key: {"action": {"mean", "std", "mask"}}}``.
        size: the size preset; only its first camera is used.
        action_dim: action dimensions, A.
        files: additional small files of the checkpoint, e.g. an action_mapping.yaml.
    """
    size = size.model_copy(update={"cameras": dict([next(iter(size.cameras.items()))])})
    config = new_config(size, action_dim)
    tokenizer = tokenization.build(instructions, SPECIAL, "<unk>")
    kept = {
        CONFIG: (json.dumps(config.source, indent=2) + "\n").encode(),
        EXAMPLE: example(size.cameras, size.max_horizon),
        STATISTICS: write_statistics(statistics),
        TOKENIZER: tokenizer.to_str(pretty=True).encode(),
        **files,
    }
    sides = {key: (side, side) for key, side in size.cameras.items()}
    return Checkpoint(name, config, sides, statistics, kept), new_model(config, size, tokenizer.get_vocab_size())


def example(cameras: Mapping[str, int], window: int) -> bytes:
    """Content of example_batch.msgpack: black images of a window."""
    return flax.write({f"observation/{k}": torch.zeros(1, window, s, s, 3, dtype=torch.uint8) for k, s in cameras.items()})


def write_original(model: Octo, cameras: Mapping[str, int], statistics: dict[str, Any], folder: Path, step: int = 0) -> None:
    """Write a checkpoint in the original's layout: flax's msgpack, configuration, statistics, example.

    Raises:
        OSError: e.g. a full disk, or the folder exists.
    """
    inside = folder / str(step) / "default"
    inside.mkdir(parents=True)
    head, heads = model.config.head_name, model.config.transformer.num_attention_heads
    paths = {name: original(name, head) for name, _ in model.named_parameters()}
    tensors = {paths[name]: to_original(paths[name], p.detach().cpu(), heads) for name, p in model.named_parameters()}
    (inside / "checkpoint").write_bytes(flax.write(tensors))
    (folder / EXAMPLE).write_bytes(example(cameras, min(2, model.config.max_horizon)))
    (folder / CONFIG).write_text(json.dumps(model.config.source))
    (folder / STATISTICS).write_bytes(write_statistics(statistics))


def _record(name: str, module: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "name": name, "args": [], "kwargs": kwargs}
