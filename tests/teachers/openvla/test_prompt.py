"""Prompts as token ids: those of the original, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models

from envs.errors import ConfigError
from teachers.openvla.prompt import TEMPLATE, Prompter, load_tokenizer, pad


def test_ids_of_the_original(golden, checkpoint):
    prompter = checkpoint.prompter(7)
    for i in golden.samples:
        assert prompter.text(golden.instructions[i]) == golden.prompts[i]
        assert prompter.ids(golden.instructions[i]) == golden.of(i, "input_ids_for_generate")[0].tolist()
        assert prompter.ids(golden.instructions[i])[:-1] == golden.of(i, "input_ids")[0].tolist()


def test_a_space_follows_the_prompt_whatever_its_case(checkpoint):
    ids = checkpoint.prompter(7).ids("Pick UP the cube")
    assert ids == checkpoint.prompter(7).ids("pick up the cube")
    assert ids[0] == 1 and ids[-1] == 29871 and ids.count(29871) == 1


def test_models_before_openvla_7b_are_asked_politely(checkpoint):
    for old in (
        replace(checkpoint, name="hf://openvla/openvla-v01-7b"),
        replace(checkpoint, config=checkpoint.config.model_copy(update={"llm_backbone_id": "vicuna-v15-7b"})),
    ):
        text = old.prompter(7).text("Lift IT")
        assert text.startswith("A chat between a curious user") and text.endswith("robot take to lift it? ASSISTANT:")
    assert replace(checkpoint, name="v01/model").prompter(7).template == TEMPLATE


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_empty_instruction(checkpoint, instruction):
    with pytest.raises(ConfigError, match=r"the instruction is empty: .*'pick up the cube'"):
        checkpoint.prompter(7).ids(instruction)


def test_long_instruction(checkpoint):
    """2048 positions, less 25 patches and 7 action tokens."""
    with pytest.raises(ConfigError, match=r"'move move move .*…' makes a prompt of \d{4} tokens; the model reads at most 2016"):
        checkpoint.prompter(7).ids("move " * 3000)


def test_pad():
    ids, mask = pad([[1, 5, 6], [1, 7]], 0, "left")
    assert ids.tolist() == [[1, 5, 6], [0, 1, 7]] and mask.tolist() == [[True] * 3, [False, True, True]]
    ids, mask = pad([[1, 5, 6], [1, 7]], 0)
    assert ids.tolist() == [[1, 5, 6], [1, 7, 0]] and mask.tolist() == [[True] * 3, [True, True, False]]


def test_damaged_or_foreign_tokenizer(checkpoint):
    with pytest.raises(ConfigError, match=r"tiny: tokenizer.json is not a tokenizer"):
        load_tokenizer(b"{}", "tiny")
    with pytest.raises(ConfigError, match=r"tiny: not an OpenVLA checkpoint: no tokenizer.json"):
        replace(checkpoint, files={}).prompter(7)
    other = Tokenizer(models.WordLevel({"<s>": 0, "word": 1}, unk_token="word"))
    with pytest.raises(ConfigError, match="the tokenizer has no token '▁': it is not a Llama tokenizer"):
        Prompter(other, TEMPLATE, 100)
