"""Prompts as token ids: those of the original, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, processors

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla.checkpoint import read_checkpoint
from rpd.teachers.openvla.prompt import TEMPLATE, TOKENIZER, Prompter, pad
from rpd.teachers.vla import tokenizer as tokenization


def test_ids_of_the_original(golden, checkpoint):
    prompter = checkpoint.prompter(7)
    for i in golden.samples:
        assert prompter.text(golden.instructions[i]) == golden.prompts[i]
        assert prompter.ids(golden.instructions[i]) == golden.of(i, "input_ids_for_generate")[0].tolist()
        assert prompter.ids(golden.instructions[i])[:-1] == golden.of(i, "input_ids")[0].tolist()


def test_prompt_ends_with_a_space_in_any_case(checkpoint):
    ids = checkpoint.prompter(7).ids("Pick UP the cube")
    assert ids == checkpoint.prompter(7).ids("pick up the cube")
    assert ids[0] == 1 and ids[-1] == 29871 and ids.count(29871) == 1


@pytest.mark.parametrize("name", ["openvla-v01-7b", "hf://org/v01", "anything"])
def test_language_model_decides_on_the_prompt_and_no_name(checkpoint, name):
    named = replace(checkpoint, name=name)
    assert named.prompter(7).template == TEMPLATE
    vicuna = replace(named, config=checkpoint.config.model_copy(update={"llm_backbone_id": "vicuna-v15-7b"}))
    text = vicuna.prompter(7).text("Lift IT")
    assert text.startswith("A chat between a curious user") and text.endswith("robot take to lift it? ASSISTANT:")
    assert vicuna.prompter(7, "openvla").template == TEMPLATE
    assert named.prompter(7, "v01").template == vicuna.prompter(7).template


@pytest.mark.parametrize("backbone", [None, "llama2-7b-chat", "mistral-v0.1-7b-instruct", "phi-2-3b"])
def test_language_model_with_other_prompts(checkpoint, backbone):
    other = replace(checkpoint, config=checkpoint.config.model_copy(update={"llm_backbone_id": backbone}))
    with pytest.raises(
        ConfigError, match=rf"tiny: config.json: llm_backbone_id is {backbone!r}.*: add prompt=, one of openvla, v01"
    ):
        other.prompter(7)
    assert other.prompter(7, "openvla").template == TEMPLATE


def test_tokenizer_padding_settings_are_ignored(checkpoint):
    """A fast tokenizer saves the padding and the truncation of its last call, and a Llama's may be set to end with EOS."""
    ids = checkpoint.prompter(7).ids("pick up the cube")
    for length in (4, 64):
        tokenizer = Tokenizer.from_str(checkpoint.files[TOKENIZER].decode())
        tokenizer.enable_padding(length=length)
        tokenizer.enable_truncation(length)
        ends = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
        saved = replace(checkpoint, files={**checkpoint.files, TOKENIZER: tokenizer.to_str().encode()})
        assert saved.prompter(7).ids("pick up the cube") == ids


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
    with pytest.raises(ConfigError, match=r"tiny/tokenizer.json: not a tokenizer"):
        tokenization.load(b"{}", "tiny/tokenizer.json")
    with pytest.raises(ConfigError, match=r"tiny: not an OpenVLA checkpoint: no tokenizer.json"):
        replace(checkpoint, files={}).prompter(7)
    other = Tokenizer(models.WordLevel({"<s>": 0, "word": 1}, unk_token="word"))
    with pytest.raises(ConfigError, match="the tokenizer has no token '▁': it is not a Llama tokenizer"):
        Prompter(other, TEMPLATE, 100)


@pytest.mark.parametrize(
    ("more", "said"), [(2, "by config.json action tokens end at 32002"), (-2, "by config.json action tokens end at 31998")]
)
def test_action_tokens_that_moved(edit, checkpoint, more, said):
    """Embeddings that were resized for more tokens: inference would read every action some bins off."""
    text = {**checkpoint.config.text_config, "vocab_size": checkpoint.config.llama.vocab_size + more}
    moved = read_checkpoint(edit("config.json", text_config=text), "x")
    with pytest.raises(ConfigError, match=rf"^x/tokenizer.json: has 32000 tokens without added ones, but {said}"):
        moved.prompter(7)


def test_token_without_an_embedding(checkpoint):
    tokenizer = json.loads(checkpoint.files["tokenizer.json"])
    tokenizer["added_tokens"] += [{**tokenizer["added_tokens"][0], "id": 32001 + i, "content": f"<{i}>"} for i in range(64)]
    more = replace(checkpoint, files={**checkpoint.files, "tokenizer.json": json.dumps(tokenizer).encode()})
    with pytest.raises(
        ConfigError, match=r"tiny/tokenizer.json: token '<63>' has id 32064, and the model has 32064 embeddings"
    ):
        more.prompter(7)
