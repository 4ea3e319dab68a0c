"""Weights: strict about names and shapes, streamed without a second copy, written back as they were read."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla import weights
from rpd.teachers.openvla.checkpoint import read_checkpoint
from rpd.teachers.vla import checkpoint_dir

SHARD = "model-00001-of-00002.safetensors"


def respell(folder, change):
    """Rewrite one shard with `change(tensors)` applied."""
    tensors = load_file(folder / SHARD)
    change(tensors)
    save_file(tensors, folder / SHARD)


def refused(checkpoint, folder, said):
    with pytest.raises(ConfigError, match=said) as error:
        weights.load(checkpoint, folder)
    assert "\n" not in str(error.value)


def test_model_is_frozen_and_whole(model):
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not any(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())
    expected = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)  # heads of 8, theta 10,000: Llama's own, in no file
    torch.testing.assert_close(model.language_model.model.rotary_emb.inv_freq, expected)


def test_missing_shard(checkpoint, broken):
    (broken / SHARD).unlink()
    refused(checkpoint, broken, f"shard {SHARD} is missing: model.safetensors.index.json lists 2 files")


def test_no_weights(checkpoint, broken):
    (broken / "model.safetensors.index.json").unlink()
    refused(checkpoint, broken, r"has no weights: neither model.safetensors nor model.safetensors.index.json$")
    (broken / "pytorch_model.bin").write_bytes(b"")
    refused(checkpoint, broken, r"index.json; pytorch_model.bin holds pickled code, which is not read: save it again as safe")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"weight_map": 3}', b'{"weight_map": {"a": 3}}', b"[" * 100_000])
def test_damaged_index(checkpoint, broken, content):
    (broken / "model.safetensors.index.json").write_bytes(content)
    refused(checkpoint, broken, r"index.json: not (an index of safetensors files|valid JSON)")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin"])
def test_index_stays_in_its_folder(checkpoint, broken, name):
    index = broken / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {"projector.fc1.bias": name}}))
    refused(checkpoint, broken, rf"index.json: lists '{name}', which is not the name of a safetensors file in the same folder")


def test_single_file_takes_precedence_over_stale_index(checkpoint, broken, model):
    """transformers saves a model again as one file, and leaves the index (and on the hub the shards) of the older one."""
    newer = {name: p.detach() + 1 for name, p in model.named_parameters()}
    save_file(newer, broken / "model.safetensors", {"format": "pt"})
    assert all(torch.equal(p, newer[name]) for name, p in weights.load(checkpoint, broken).named_parameters())
    for shard in broken.glob("model-*"):
        shard.unlink()
    assert all(torch.equal(p, newer[name]) for name, p in weights.load(checkpoint, broken).named_parameters())


def test_tensor_in_two_shards(checkpoint, broken):
    other = "model-00002-of-00002.safetensors"
    name = next(iter(load_file(broken / other)))
    respell(broken, lambda t: t.update({name: torch.zeros(2)}))
    refused(checkpoint, broken, rf"{other}: tensor '{name}' is also in {SHARD}: which one counts\?")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn])
def test_quantized_weights(checkpoint, broken, dtype):
    respell(broken, lambda t: t.update({"projector.fc1.bias": t["projector.fc1.bias"].to(dtype)}))
    refused(checkpoint, broken, rf"{SHARD}: tensor 'projector.fc1.bias' is \w+, not floating point of 16 bits or more")


def test_git_lfs_pointer(checkpoint, broken):
    (broken / SHARD).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    refused(checkpoint, broken, rf"{SHARD}: a git-lfs pointer in place of the file: run 'git lfs pull'")


@pytest.mark.parametrize("keep", [0, 20, 100_000])
def test_damaged_shard(checkpoint, broken, keep):
    (broken / SHARD).write_bytes((broken / SHARD).read_bytes()[:keep])
    refused(checkpoint, broken, rf"{SHARD}: not a safetensors file, or a damaged one")


def test_missing_tensor(checkpoint, broken):
    respell(broken, lambda t: t.pop("vision_backbone.featurizer.blocks.1.ls2.scale_factor"))
    refused(checkpoint, broken, r"tensor 'vision_backbone.featurizer.blocks.1.ls2.scale_factor' is missing$")
    respell(broken, lambda t: [t.pop(k) for k in list(t) if k.startswith("projector")])
    refused(checkpoint, broken, r"tensor 'projector.fc1.bias' is missing \(and 6 more\)")


@pytest.mark.parametrize(
    "name",
    [
        "vision_backbone.featurizer.blocks.3.norm1.weight",
        "vision_backbone.extra_featurizer.norm.weight",
        "language_model.model.layers.9.input_layernorm.weight",
        "action_head.weight",
        "language_model.model.embed_tokens.lora_A.weight",
    ],
)
def test_unexpected_tensor(checkpoint, broken, name):
    respell(broken, lambda t: t.update({name: torch.zeros(2)}))
    refused(checkpoint, broken, rf"unexpected tensor '{name}': not part of the model in config.json")


def test_unused_weights_may_be_absent(checkpoint, broken, model):
    def drop(tensors):
        gone = [k for k in tensors if weights.unused(checkpoint.config).match(k)]
        assert len(gone) == 14 + 2 + 12 + 2 + 13  # last blocks (with LayerScale and without), norms, attention pool
        for name in gone:
            del tensors[name]

    respell(broken, drop)
    again = weights.load(checkpoint, broken)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_tensor_of_another_shape(checkpoint, broken):
    respell(broken, lambda t: t.update({"projector.fc1.bias": torch.zeros(3)}))
    refused(checkpoint, broken, r"tensor 'projector.fc1.bias' has shape \[3\], but the configuration describes \[240\]")


@pytest.mark.parametrize("shard_bytes", [10**9, 3_000_000, 1])
def test_saved_and_read_again(checkpoint, model, tmp_path, shard_bytes, folder):
    out = tmp_path / "deep" / "copy"
    weights.save(checkpoint, model.named_parameters(), out, shard_bytes)
    again = read_checkpoint(out, "tiny")
    for name in ("config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer_config.json"):
        assert json.loads((out / name).read_text()) == json.loads((folder / name).read_text()), name
    assert again.files == checkpoint.files and again.statistics == checkpoint.statistics
    back = weights.load(again, out)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), model.parameters(), strict=True))
    files = sorted(p.name for p in out.glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"] and not (out / "model.safetensors.index.json").exists()
    else:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert sorted(set(index["weight_map"].values())) == files and files[0].startswith("model-00001-of-0")
        assert index["metadata"]["total_size"] == 4 * model.num_parameters
    with safe_open(out / files[0], "pt") as shard:
        assert shard.metadata() == {"format": "pt"}


def test_checkpoint_is_not_overwritten(checkpoint, model, tmp_path):
    with pytest.raises(ConfigError, match="exists already: a checkpoint is written to a new folder"):
        weights.save(checkpoint, model.named_parameters(), tmp_path)


def test_interrupted_save_leaves_nothing(checkpoint, model, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint_dir, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save(checkpoint, model.named_parameters(), tmp_path / "vla")
    assert os.listdir(tmp_path) == []


def test_few_bits_need_bitsandbytes(checkpoint, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"need bitsandbytes, which is not installed: pip install bitsandbytes"):
        weights.load(checkpoint, folder, torch.bfloat16, bits="nf4")


def test_eight_bits(checkpoint, folder, model):
    pytest.importorskip("bitsandbytes")
    small = weights.load(checkpoint, folder, torch.bfloat16, bits="int8")
    assert small.language_model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    assert small.language_model.lm_head.weight.dtype == small.projector.fc1.weight.dtype == torch.bfloat16
    hidden = torch.randn(1, 3, 32).bfloat16()
    places = torch.arange(3)[None]
    exact = model.run_transformer(hidden.float(), None, places)
    assert (small.run_transformer(hidden, None, places).float() - exact).abs().max() < 0.2 * exact.abs().max()
