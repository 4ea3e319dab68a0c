"""Instructions to token ids, as OpenVLA was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from envs.errors import ConfigError
from teachers.vocabulary import SPACE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = "In: What action should the robot take to {}?\nOut:"
TEMPLATE_V01 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions. USER: What action should the robot take to {}? ASSISTANT:"
)
"""Of the models before openvla-7b, whose language model is Vicuna."""
BOS = "<s>"
TOKENIZER = "tokenizer.json"


class Prompter:
    """The prompt of an instruction, as token ids.

    Args:
        tokenizer: the checkpoint's.
        template: `TEMPLATE` or `TEMPLATE_V01`.
        max_tokens: longest prompt, tokens.

    Attributes:
        bos: id of the token that every prompt begins with.

    Raises:
        ConfigError: a tokenizer without the tokens that prompts begin and end with.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, max_tokens: int) -> None:
        self.tokenizer, self.template, self.max_tokens = tokenizer, template, max_tokens
        self.bos, self._space = (_token(tokenizer, token) for token in (BOS, SPACE))
        self._known: dict[str, list[int]] = {}

    def text(self, instruction: str) -> str:
        """The prompt as text.

        Raises:
            ConfigError: an empty instruction.
        """
        if not instruction.strip():
            raise ConfigError("the instruction is empty: a VLA has to be told what to do, e.g. 'pick up the cube'")
        return self.template.format(instruction.lower())

    def ids(self, instruction: str) -> list[int]:
        """The prompt as token ids, from BOS to the space before the action.

        That space belongs to the first action token's text in training, so no tokenizer puts it at the end by itself; without
        it the model is lost.

        Raises:
            ConfigError: an instruction that is empty or too long.
        """
        if instruction not in self._known:
            ids = list(self.tokenizer.encode(self.text(instruction)).ids)
            if ids[0] != self.bos:
                ids.insert(0, self.bos)
            if ids[-1] != self._space:
                ids.append(self._space)
            if len(ids) > self.max_tokens:
                raise ConfigError(
                    f"the instruction '{instruction[:60]}…' makes a prompt of {len(ids)} tokens; "
                    f"the model reads at most {self.max_tokens} beside the image"
                )
            self._known[instruction] = ids
        return self._known[instruction]


def _token(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ConfigError(f"the tokenizer has no token '{token}': it is not a Llama tokenizer")
    return found


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"] = "right") -> tuple[Tensor, Tensor]:
    """Prompts of different length as one tensor [N, L], and its mask [N, L] bool, False at padding.

    Everything here takes padding on either side. On the right, every token has something to attend to; on the left, a pad
    has nothing, and it is up to the attention kernel what comes of that.
    """
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return ids, mask


def load_tokenizer(content: bytes, where: str) -> Tokenizer:
    """Read a tokenizer.json with the tokenizers library: transformers' Auto classes would offer to run a checkpoint's code.

    Raises:
        ConfigError: it is damaged, or the library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("teacher openvla needs tokenizers, which is not installed: pip install 'rpd[vla]'") from None
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"{where}: {TOKENIZER} is not a tokenizer ({error})") from None
