"""Convert instructions to embeddings: tokenizer, T5 encoder, and tables of precomputed ids or embeddings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError, missing_package
from rpd.students.io.untrusted import TensorFile, read_bytes
from rpd.teachers.vla import tokenizer as tokenization
from rpd.teachers.vla.hub import fetch

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import T5EncoderModel

PAD, EOS = 0, 1
"""T5's token ids."""
TOKENIZER = "tokenizer.json"


def t5_encoder(**sizes: int) -> T5EncoderModel:
    """Build a T5 encoder with random weights; `sizes` as returned by `t5_sizes`."""
    try:
        from transformers import T5Config, T5EncoderModel
    except ImportError:
        raise missing_package("teacher octo", "transformers", "vla") from None
    fixed = {
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
    }
    return T5EncoderModel(T5Config.from_dict({**sizes, **fixed}))


def t5_sizes(shape: Callable[[str], list[int]], has: Callable[[str], bool]) -> dict[str, int]:
    """Derive the sizes of a T5 encoder from its tensors (the configuration only has a name).

    Args:
        shape: shape of a tensor ``t5.<name>``.
        has: whether a tensor exists.
    """
    block = "t5.encoder.block.{}.layer.{}".format
    vocab, width = shape("t5.shared.weight")
    buckets, heads = shape(f"{block(0, 0)}.SelfAttention.relative_attention_bias.weight")
    layers = next(i for i in itertools.count() if not has(f"{block(i, 0)}.layer_norm.weight"))
    return {
        "vocab_size": vocab, "d_model": width, "num_heads": heads, "num_layers": layers,
        "d_kv": shape(f"{block(0, 0)}.SelfAttention.q.weight")[0] // heads,
        "d_ff": shape(f"{block(0, 1)}.DenseReluDense.wi.weight")[0], "relative_attention_num_buckets": buckets,
    }  # fmt: skip


def pad(ids: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Token ids [N, length], cut at the end with the end-of-text token kept, and a mask of real tokens [N, length]."""
    rows = [row if len(row) <= length else [*row[: length - 1], EOS] for row in ids]
    table = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return table, mask


class Words:
    """Token ids of instructions, or precomputed embeddings.

    Args:
        tokenizer: a T5 tokenizer, see `load_tokenizer`; loaded when first needed.
        known: file with precomputed values: JSON of token ids by instruction, or safetensors of embeddings [tokens, width] by
            instruction.
        where: the teacher, for messages.

    Attributes:
        embeddings: embeddings by instruction.

    Raises:
        ConfigError: `known` cannot be read or is invalid.
    """

    def __init__(self, tokenizer: str | bytes, known: Path | None, where: str) -> None:
        self.source, self.where = tokenizer, where
        self.ids_of: dict[str, list[int]] = {"": [EOS]}
        self.embeddings: dict[str, Tensor] = {}
        self._tokenizer: Tokenizer | None = None
        if known is not None and known.suffix == ".safetensors":
            self.embeddings = _read_embeddings(known)
        elif known is not None:
            self.ids_of |= _read_ids(known)

    def ids(self, instruction: str) -> list[int]:
        """Token ids of an instruction with the end-of-text token, not cut.

        Raises:
            ConfigError: the instruction is not in the table, and there is no tokenizer.
        """
        if instruction not in self.ids_of:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.source, self.where)
            # not cached: clients of a server could send any number of instructions
            return [*self._tokenizer.encode(instruction, add_special_tokens=False).ids, EOS]
        return self.ids_of[instruction]


def load_tokenizer(source: str | bytes, where: str) -> Tokenizer:
    """Load a T5 tokenizer.

    Args:
        source: content of tokenizer.json, or its location: folder, file, or model on the hub.
        where: the teacher, for messages.

    Raises:
        ConfigError: not found, not a T5 tokenizer, or the library is not installed.
    """
    if isinstance(source, bytes):
        return _load(source, f"teacher {where}: {TOKENIZER}")
    file = _find_tokenizer(source, where)
    return _load(read_bytes(file), str(file))


def _load(content: bytes, where: str) -> Tokenizer:
    tokenizer = tokenization.load(content, where)
    for token, expected in (("<pad>", PAD), ("</s>", EOS)):
        if (found := tokenizer.token_to_id(token)) not in (None, expected):
            raise ConfigError(f"{where}: '{token}' has id {found}, and T5's has {expected}: the tokenizer of another model")
    return tokenizer


def _find_tokenizer(name: str, where: str) -> Path:
    """Path of the tokenizer.json in a folder, file, or model on the hub."""
    path = Path(name)
    try:
        file = path if path.is_file() else (path if path.is_dir() else fetch(name, "a T5 tokenizer", [TOKENIZER])) / TOKENIZER
    except ConfigError as error:
        raise ConfigError(
            f"teacher {where}: the tokenizer is missing ({error}): put the {TOKENIZER} of t5-base next to the weights, or add "
            "tokenizer=FOLDER that has it, or language=FILE.json with the token ids of each instruction"
        ) from None
    if not file.is_file():
        raise ConfigError(f"teacher {where}: tokenizer={name}: has no {TOKENIZER}, which a T5 tokenizer needs")
    return file


def _read_ids(path: Path) -> dict[str, list[int]]:
    """Read token ids by instruction; adds the end-of-text token if it is missing."""
    try:
        table: dict[str, Any] = json.loads(path.read_bytes())
        if not all(isinstance(i, int) and not isinstance(i, bool) for ids in table.values() for i in ids):
            raise ValueError
    except OSError as error:
        raise ConfigError(f"language={path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"language={path}: must be JSON like {{'lift the cube': [3, 7, 1]}}: token ids by instruction"
        ) from None
    return {text: list(ids) if ids[-1:] == [EOS] else [*ids, EOS] for text, ids in table.items()}


def _read_embeddings(path: Path) -> dict[str, Tensor]:
    file = TensorFile(path)
    for text in file.names:
        file.shape(text)  # refuses tensors that are not floating point
    return {text: file.take(text).float() for text in sorted(file.names)}
