"""A tokenizer for the instructions of a new model: byte-pair pieces of words, with bytes to fall back on, as Llama's and T5's.

The vocabularies of large models, 32,000 tokens, would cost a small one most of its parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from envs.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
"""What stands for a space, before a word."""
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
"""What a word that no piece covers is spelt with."""
ALPHABET = (SPACE, *"abcdefghijklmnopqrstuvwxyz0123456789.,:?'-")


def build(texts: Iterable[str], first: Sequence[str], unknown: str, last: Sequence[str] = (), pieces: int = 1000) -> Tokenizer:
    """Make a tokenizer. Ids: the `first` tokens, 256 bytes, the pieces, the `last` tokens.

    Args:
        texts: a word of theirs is seldom more than one token.
        first: special tokens at the beginning, `unknown` among them.
        unknown: the token for what cannot be said otherwise.
        last: more tokens.
        pieces: most pieces to learn.

    Raises:
        ConfigError: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise ConfigError("a new VLA needs tokenizers, which is not installed: pip install 'rpd[vla]'") from None
    spaced = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    learner = Tokenizer(models.BPE())
    learner.normalizer = spaced
    learner.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")  # no piece spans two words
    trainer = trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=list(ALPHABET), special_tokens=[], show_progress=False)
    learner.train_from_iterator(sorted(set(texts)), trainer)
    learnt = json.loads(learner.to_str())["model"]
    words = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocab = {token: i for i, token in enumerate([*first, *BYTES, *words, *last])}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaced
    tokenizer.add_special_tokens(list(first))
    return tokenizer
