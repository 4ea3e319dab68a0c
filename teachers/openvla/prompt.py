"""Convert instructions to token ids, in the format of OpenVLA's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.teachers.vla.tokenizer import SPACE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = "In: What action should the robot take to {}?\nOut:"
TEMPLATE_V01 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions. USER: What action should the robot take to {}? ASSISTANT:"
)
"""Prompt of the models before openvla-7b, with Vicuna as language model."""
STYLES = {"openvla": TEMPLATE, "v01": TEMPLATE_V01}
"""Prompt templates by the value of option ``prompt``."""
BOS = "<s>"
TOKENIZER = "tokenizer.json"


class Prompter:
    """Converts instructions to prompts as token ids.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: `TEMPLATE` or `TEMPLATE_V01`.
        max_tokens: maximum length of a prompt, tokens.

    Attributes:
        bos: id of the first token of every prompt.

    Raises:
        ConfigError: the tokenizer lacks the tokens at the beginning and end of prompts.
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
            raise ConfigError("the instruction is empty: a VLA needs one, e.g. 'pick up the cube'")
        return self.template.format(instruction.lower())

    def ids(self, instruction: str) -> list[int]:
        """The prompt as token ids, from BOS to the space before the action.

        In training, that space belongs to the text of the first action token, so tokenizers do not add it; without it the model
        fails.

        Raises:
            ConfigError: an instruction that is empty or too long.
        """
        if instruction not in self._known:
            # without special tokens: those that a tokenizer.json adds depend on the settings when it was saved
            ids = [self.bos, *self.tokenizer.encode(self.text(instruction), add_special_tokens=False).ids]
            if ids[-1] != self._space:
                ids.append(self._space)
            if len(ids) > self.max_tokens:
                raise ConfigError(
                    f"the instruction '{instruction[:60]}…' makes a prompt of {len(ids)} tokens; "
                    f"the model reads at most {self.max_tokens} besides the image"
                )
            self._known[instruction] = ids
        return self._known[instruction]


def _token(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ConfigError(f"the tokenizer has no token '{token}': it is not a Llama tokenizer")
    return found


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"] = "right") -> tuple[Tensor, Tensor]:
    """Pad prompts to one tensor [N, L], with its mask [N, L] bool, False at padding.

    The model supports padding on either side. On the right, every token can attend to some other; on the left, a pad token
    cannot, and its result depends on the attention kernel.
    """
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return ids, mask


def style_of(backbone: str | None) -> str | None:
    """Prompt style (key of `STYLES`) in which OpenVLA's code trains a language model; None: unknown.

    Args:
        backbone: ``llm_backbone_id`` of config.json, e.g. ``llama2-7b-pure`` or ``vicuna-v15-7b``; ``llama``: created by rpd.

    Source: prismatic/models/backbones/llm/*.py and vla-scripts/finetune.py of openvla/openvla.
    """
    if backbone is None:
        return None
    return "v01" if backbone.startswith("vicuna") else "openvla" if backbone == "llama" or backbone.endswith("-pure") else None
