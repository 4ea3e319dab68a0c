"""Tokenizers: read from tokenizer.json, or built from the instructions for a new model.

New tokenizers use byte-pair pieces within words with byte fallback, like those of Llama and T5. The 32,000 tokens of large
models would take most of a small model's parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rpd.envs.errors import ConfigError, missing_package

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
"""Replacement of a space, before a word."""
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
"""Byte tokens for words that no piece covers."""
ALPHABET = (SPACE, *"abcdefghijklmnopqrstuvwxyz0123456789.,:?'-")


def load(content: bytes, where: str) -> Tokenizer:
    """Read a tokenizer.json with the tokenizers library: transformers' Auto classes could execute code of a checkpoint.

    Padding and truncation in the file are left over from the last call before it was saved. They are disabled, as transformers
    does before every call.

    Args:
        content: content of the file.
        where: path of the file, for messages.

    Raises:
        ConfigError: the file is damaged, or the library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing_package("a VLA", "tokenizers", "vla") from None
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"{where}: not a tokenizer ({str(error)[:100]})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def check_ids(tokenizer: Tokenizer, rows: int, where: str) -> None:
    """Refuse a tokenizer with ids beyond the embeddings of a model.

    Args:
        tokenizer: tokenizer of the model.
        rows: number of embeddings of the model.
        where: path of the tokenizer, for messages.

    Raises:
        ConfigError: names the token.
    """
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= rows:
        raise ConfigError(
            f"{where}: token '{token}' has id {highest}, and the model has {rows} embeddings: the tokenizer of another model?"
        )


def build(texts: Iterable[str], first: Sequence[str], unknown: str, last: Sequence[str] = (), pieces: int = 1000) -> Tokenizer:
    """Build a tokenizer. Ids: the `first` tokens, 256 bytes, the pieces, the `last` tokens.

    Args:
        texts: training texts; their words are seldom more than one token.
        first: special tokens at the beginning, `unknown` among them.
        unknown: token for text without other tokens.
        last: tokens at the end.
        pieces: maximum number of pieces.

    Raises:
        ConfigError: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise missing_package("a new VLA", "tokenizers", "vla") from None
    spaced = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    trained = Tokenizer(models.BPE())
    trained.normalizer = spaced
    trained.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")  # no piece spans two words
    trainer = trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=list(ALPHABET), special_tokens=[], show_progress=False)
    trained.train_from_iterator(sorted(set(texts)), trainer)
    learned = json.loads(trained.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    vocab = {token: i for i, token in enumerate([*first, *BYTES, *words, *last])}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaced
    tokenizer.add_special_tokens(list(first))
    return tokenizer
