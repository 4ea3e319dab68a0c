"""A new model: its tokenizer, one that learns, and the way to disk and back."""

from __future__ import annotations

import json

import pytest
import torch

from rpd.teachers.openvla import decode, weights
from rpd.teachers.openvla.checkpoint import read_checkpoint
from rpd.teachers.openvla.config import TinyViT
from rpd.teachers.openvla.init_model import build_tokenizer, new_checkpoint
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.prompt import pad

INSTRUCTIONS = ["pick up the red cube", "push the blue cube to the goal", "stack the red cube on the blue cube"]
STATISTICS = {"mine": {"action": {"q01": [-1.0, -1.0], "q99": [1.0, 1.0], "mask": [True, False]}}}


@pytest.fixture(params=["one backbone", "two"])
def checkpoint(request):
    dino = TinyViT(depth=3, embed_dim=16, num_heads=2, patch_size=8, reg_tokens=1, no_embed_class=True, init_values=1.0)
    siglip = TinyViT(depth=3, embed_dim=24, num_heads=2, patch_size=8, class_token=False)
    vits = [dino, siglip] if request.param == "two" else [siglip]
    llama = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return new_checkpoint(
        "new", INSTRUCTIONS, STATISTICS, 32, vits, llama, bins=32, files={"action_mapping.yaml": b"action: env\n"}
    )


def test_tokenizer(checkpoint):
    prompter = checkpoint.prompter(2)
    encode, token = prompter.tokenizer.encode, prompter.tokenizer.id_to_token
    vocab = checkpoint.config.vocab
    for instruction in INSTRUCTIONS:
        ids = prompter.ids(instruction)
        assert token(ids[0]) == "<s>" and token(ids[-1]) == "▁" and max(ids) < vocab - 32
        assert len(ids) < 30
    assert [token(i) for i in (vocab - 32, vocab - 1, vocab)] == ["<action_31>", "<action_0>", "<PAD>"]
    assert token(vocab + 1) is None
    spelt = encode("é").tokens
    assert spelt[-2:] == ["<0xC3>", "<0xA9>"]
    assert prompter.ids("PICK up the red cube") == prompter.ids("pick up the red cube")


def test_tokenizer_is_reproducible():
    assert build_tokenizer(INSTRUCTIONS) == build_tokenizer(INSTRUCTIONS[::-1] + INSTRUCTIONS)


def test_it_learns_and_survives_saving(checkpoint, tmp_path):
    torch.manual_seed(0)
    model = OpenVLA(checkpoint.config)
    prompter = checkpoint.prompter(2)
    ids, mask = pad([prompter.ids(text) for text in INSTRUCTIONS], checkpoint.config.pad_token_id)
    pixels = torch.randn(3, 3 * len(model.vision_backbone.vits), 32, 32)
    actions = checkpoint.config.vocab - 1 - torch.tensor([[0, 31], [16, 3], [9, 9]])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(pixels, ids, mask, actions).flatten(0, 1), actions.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for name, p in model.named_parameters())
    assert loss < 0.5

    weights.save(checkpoint, model.named_parameters(), tmp_path / "vla")
    back = read_checkpoint(tmp_path / "vla", "vla")
    assert back.files["action_mapping.yaml"] == b"action: env\n"
    assert json.loads((tmp_path / "vla" / "config.json").read_text())["tiny_vit_kwargs"][-1]["class_token"] is False
    again = weights.load(back, tmp_path / "vla")
    with torch.no_grad():
        assert torch.equal(again(pixels, ids, mask, actions), model(pixels, ids, mask, actions))
        answer = decode.greedy(again, decode.prefill(again, again.encode_images(pixels), ids, mask), 2)
    assert torch.equal(answer.tokens, actions)
    assert back.prompter(2).ids(INSTRUCTIONS[0]) == prompter.ids(INSTRUCTIONS[0])
