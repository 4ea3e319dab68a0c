"""New checkpoints in the original's layout: of the released sizes or smaller, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from teachers.octo import flax
from teachers.octo.checkpoint import EXAMPLE
from teachers.octo.config import CONFIG, OctoConfig, parse_config
from teachers.octo.language import t5_encoder
from teachers.octo.model import Octo
from teachers.octo.names import original, to_original
from teachers.statistics import FILE as STATISTICS

Size = Literal["tiny", "small", "base"]


class Sizes(NamedTuple):
    """Of one model."""

    width: int
    layers: int
    heads: int
    mlp: int
    features: tuple[int, int, int, int]
    """Channels of the stem's convolutions, multiples of 32."""
    stem_width: int
    t5: dict[str, int]
    """See `language.t5_sizes`."""


T5_BASE = {"vocab_size": 32128, "d_model": 768, "num_heads": 12, "num_layers": 12, "d_kv": 64, "d_ff": 3072}
T5_TINY = {"vocab_size": 384, "d_model": 48, "num_heads": 4, "num_layers": 2, "d_kv": 12, "d_ff": 96}
SIZES: dict[Size, Sizes] = {
    "tiny": Sizes(48, 3, 4, 112, (32, 64, 96, 64), 72, T5_TINY),
    "small": Sizes(384, 12, 6, 1536, (32, 96, 192, 384), 512, T5_BASE),  # as octo-small-1.5
    "base": Sizes(768, 12, 12, 3072, (32, 96, 192, 384), 512, T5_BASE),  # as octo-base-1.5
}
CAMERAS = {"image_primary": 256, "image_wrist": 128}


def new_config(size: Size, cameras: dict[str, int], action_dim: int) -> OctoConfig:
    """Describe a model with the released ones' head.

    Args:
        size: which.
        cameras: height and width, pixels, multiples of 16, by the name of the image.
        action_dim: A.
    """
    s = SIZES[size]
    stem = {"features": list(s.features), "num_features": s.stem_width}

    def tokenizer(key: str) -> dict[str, Any]:
        encoder = _record("SmallStem16", "octo.model.components.vit_encoders", stem)
        stacked = {"obs_stack_keys": [key], "task_stack_keys": [key], "encoder": encoder}
        return _record("ImageTokenizer", "octo.model.components.tokenizers", stacked)

    head = {"readout_key": "readout_action", "use_map": False, "action_horizon": 4, "action_dim": action_dim}
    model = {
        "observation_tokenizers": {key.removeprefix("image_"): tokenizer(key) for key in cameras},
        "task_tokenizers": {
            "language": _record("LanguageTokenizer", "octo.model.components.tokenizers", {"encoder": "t5-base"})
        },
        "heads": {"action": _record("DiffusionActionHead", "octo.model.components.action_heads", head)},
        "readouts": {"action": 1},
        "token_embedding_size": s.width,
        "transformer_kwargs": {"num_layers": s.layers, "num_attention_heads": s.heads, "mlp_dim": s.mlp},
        "max_horizon": 10,
        "repeat_task_tokens": True,
        "use_correct_attention": True,
    }
    return parse_config({"model": model}, f"octo of size {size}")


def new_model(config: OctoConfig, size: Size, cameras: dict[str, int]) -> Octo:
    """The network of `new_config`, with random weights."""
    images = {key.removeprefix("image_"): (6, (side // 16) ** 2) for key, side in cameras.items()}
    return Octo(config, t5_encoder(**SIZES[size].t5, relative_attention_num_buckets=32), images)


def write_original(model: Octo, cameras: dict[str, int], statistics: dict[str, Any], folder: Path, step: int = 0) -> None:
    """Write a checkpoint as the original code does: flax's msgpack, configuration, statistics, example.

    Raises:
        OSError: e.g. a full disk, or the folder exists.
    """
    inside = folder / str(step) / "default"
    inside.mkdir(parents=True)
    head, heads = model.config.head_name, model.config.transformer.num_attention_heads
    paths = {name: original(name, head) for name, _ in model.named_parameters()}
    tensors = {paths[name]: to_original(paths[name], p.detach().cpu(), heads) for name, p in model.named_parameters()}
    (inside / "checkpoint").write_bytes(flax.write(tensors))
    images = {f"observation/{k}": torch.zeros(1, 2, side, side, 3, dtype=torch.uint8) for k, side in cameras.items()}
    (folder / EXAMPLE).write_bytes(flax.write(images))
    (folder / CONFIG).write_text(json.dumps(model.config.source))
    (folder / STATISTICS).write_text(json.dumps(statistics))


def _record(name: str, module: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "name": name, "args": [], "kwargs": kwargs}
