"""Checkpoints: read strictly from either layout, refused in one line that says what would be right."""

from __future__ import annotations

import json
import os
import shutil

import msgpack
import pytest
import torch

from rpd.cli import main
from rpd.envs.errors import ConfigError
from rpd.teachers.octo import flax, weights
from rpd.teachers.octo.checkpoint import read_checkpoint, weights_file
from rpd.teachers.octo.config import DiffusionHead, read_config
from rpd.teachers.octo.init_model import SPECIAL
from rpd.teachers.octo.language import EOS, Words, pad
from rpd.teachers.octo.model import Observation, Task
from rpd.teachers.octo.param_names import from_original, original, to_original
from rpd.teachers.octo.setup import resolve
from rpd.teachers.octo.statistics import select
from rpd.teachers.vla import tokenizer as tokenization

INSIDE = "300000/default/checkpoint"


def load(folder):
    return weights.load(read_checkpoint(folder, str(folder)), folder)


def refuse(call, match):
    with pytest.raises(ConfigError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def rewrite(folder, how):
    """Change the tree of weights by its paths."""
    tree = flax.read(folder / INSIDE)
    how(tree)
    (folder / INSIDE).write_bytes(flax.write(tree))
    return folder


# -- what is read


def test_small_files(checkpoint):
    assert checkpoint.cameras == {"image_primary": (256, 256), "image_wrist": (128, 128)}
    assert list(checkpoint.statistics) == ["bridge_dataset", "fractal20220817_data"]
    config = checkpoint.config
    assert (config.width, config.max_horizon, config.readouts, config.tokenizer) == (48, 10, {"action": 1}, "t5-base")
    assert isinstance(config.head, DiffusionHead)
    assert (config.head.action_horizon, config.head.hidden_dim, config.head.max_action) == (4, 64, 5.0)


def test_sizes_of_t5_are_read_off_its_weights(model):
    t5 = model.t5.config
    assert (t5.vocab_size, t5.d_model, t5.d_kv, t5.num_heads, t5.num_layers, t5.d_ff) == (384, 48, 8, 5, 2, 96)


def test_old_name_of_the_horizon(edit):
    def older(model):
        kwargs = model["heads"]["action"]["kwargs"]
        kwargs["pred_horizon"] = kwargs.pop("action_horizon")

    assert read_config(edit(older) / "config.json").head.action_horizon == 4


def test_last_step_is_taken(broken):
    shutil.copytree(broken / "300000", broken / "9000")
    assert weights_file(broken) == broken / INSIDE
    assert weights_file(broken, 9000) == broken / "9000/default/checkpoint"
    refuse(lambda: weights_file(broken, 5), "has no step 5; it has 9000, 300000")


def test_conversion_in_a_folder_with_steps_is_ambiguous(broken):
    """A conversion into the folder of a training that went on: it may be older than every step."""
    (broken / "model.safetensors").write_bytes(b"")
    refuse(lambda: weights_file(broken), r"has model.safetensors and step 300000, .*: add step=, or move")
    assert weights_file(broken, 300000) == broken / INSIDE


def test_frozen_and_on_its_own_memory(model):
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.t5.encoder.embed_tokens.weight is model.t5.shared.weight
    assert not any(p.is_meta for p in model.state_dict().values())


def test_arrays_there_and_back(tmp_path):
    tree = {"a/b": torch.arange(6).view(2, 3), "a/c": torch.tensor([1.5, -2.0]).bfloat16(), "d": torch.tensor(True)}
    (tmp_path / "x").write_bytes(flax.write(tree))
    again = flax.read(tmp_path / "x")
    assert again.keys() == tree.keys() and all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in tree.items())


def test_names_there_and_back(model, folder):
    """Every parameter of ours is one of theirs, in their shape again."""
    tree = flax.read(folder / INSIDE)
    for name, parameter in model.named_parameters():
        path = original(name, "action")
        theirs = tree.pop(path)
        assert torch.equal(from_original(path, theirs), parameter)
        assert torch.equal(to_original(path, parameter, model.config.transformer.num_attention_heads), theirs)
    assert not tree


def test_camera_that_was_never_trained(broken):
    """The original makes no parameters for a tokenizer whose camera the data lacked."""

    def without(tree):
        for path in [p for p in tree if "wrist" in p]:
            del tree[path]

    model = load(rewrite(broken, without))
    assert list(model.tokenizers) == ["primary"] and list(model.config.images) == ["primary", "wrist"]


def test_bfloat16(checkpoint, folder, model, case):
    few = weights.load(checkpoint, folder, torch.bfloat16)
    assert few.dtype == torch.bfloat16 and few.head.inputs.weight.dtype == torch.float32
    seen, task = case("case_lang_w1").inputs(model)
    exact = model.readout(seen, task)
    found = few.readout(seen, task)
    assert found.dtype == torch.float32 and (found - exact).abs().max() < 0.3


# -- what is refused


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int32])
def test_quantized_weights(broken, dtype):
    def change(tree):
        path = "octo_transformer/obs_wrist_projection/bias"
        tree[path] = tree[path].to(dtype)

    refuse(lambda: load(rewrite(broken, change)), r"checkpoint: tensor '.*/obs_wrist_projection/bias' is torch\.\w+: weights")


def test_git_lfs_pointers(broken):
    for file in (INSIDE, "example_batch.msgpack", "config.json", "dataset_statistics.json"):
        whole = (broken / file).read_bytes()
        (broken / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
        refuse(lambda: load(broken), rf"{file}: a git-lfs pointer in place of the file: run 'git lfs pull'")
        (broken / file).write_bytes(whole)


@pytest.mark.parametrize("keep", [0, 100, 200_000, 2_659_000])
def test_truncated_file(broken, keep):
    content = (broken / INSIDE).read_bytes()
    (broken / INSIDE).write_bytes(content[:keep])
    refuse(lambda: load(broken), r"default/checkpoint: not a complete msgpack file of flax \(.*\): truncated or altered\?")


def test_arrays_of_the_wrong_length(broken):
    payload = msgpack.packb(([2, 2], "float32", b"1234"))
    (broken / INSIDE).write_bytes(msgpack.packb({"a": msgpack.ExtType(1, payload)}))
    refuse(lambda: load(broken), r"an array \[2, 2\] of float32 with 4 bytes")


@pytest.mark.parametrize("mark", ["default/manifest.ocdbt", "default/d/x", "_sharding"])
def test_newer_orbax(broken, mark):
    os.remove(broken / INSIDE)
    (broken / "300000" / mark).parent.mkdir(exist_ok=True)
    (broken / "300000" / mark).write_bytes(b"")
    refuse(
        lambda: load(broken),
        r"written by a newer orbax as OCDBT or zarr.*: needs the msgpack file 'checkpoint'",
    )


def test_arrays_in_folders_of_their_own(broken):
    (broken / INSIDE).write_bytes(msgpack.packb({"a": "PLACEHOLDER://a"}))
    refuse(lambda: load(broken), "300000/default: written by a newer orbax")


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda t: t.pop("octo_transformer/obs_wrist_projection/bias"), "tensor '.*/obs_wrist_projection/bias' is missing"),
        (lambda t: t.update({"heads_other/x": torch.zeros(2)}),
         "unexpected tensor 'heads_other/x': not part of the model in config.json"),
        (lambda t: t.update({"heads_action/diffusion_model/reverse_network/Dense_1/bias": torch.zeros(5)}),
         r"tensor 'head.outputs.bias' has shape \[5\], the configuration describes \[28\]"),
        (lambda t: [t.pop(p) for p in list(t) if "obs_" in p], "has tensors of none of the image tokenizers primary, wrist"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(broken, how, match):
    refuse(lambda: load(rewrite(broken, how)), match)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda m: m.update(use_correct_attention=False), "use_correct_attention is not true, as in Octo 1.0 .*: use Octo 1.5"),
        (lambda m: m["heads"]["action"].update(name="UNetDDPMActionHead"), "'UNetDDPMActionHead' is not supported"),
        (lambda m: m["observation_tokenizers"]["wrist"].update(name="LowdimObsTokenizer"),
         "tokenizer wrist: 'LowdimObsTokenizer' is not supported; supported: ImageTokenizer"),
        (lambda m: m["observation_tokenizers"]["wrist"]["kwargs"]["encoder"].update(name="SmallStem32"), "'SmallStem32' is"),
        (lambda m: m["transformer_kwargs"].update(add_position_embedding=True), "add_position_embedding: not"),
        (lambda m: m["heads"]["action"]["kwargs"].update(new=1), "head action: new: not supported"),
        (lambda m: m["heads"].update(two=m["heads"]["action"]), "has heads action, two; supported: one"),
        (lambda m: m.pop("use_correct_attention"), "use_correct_attention is not true, as in Octo 1.0 "),
        (lambda m: m["task_tokenizers"].clear(), "task tokenizers are none; supported: language"),
        (lambda m: m.pop("readouts"), "field 'readouts' is missing"),
        (lambda m: m.update(readouts={"value": 1}), r"head action reads readout_action, but readouts are \['value'\]"),
    ],
)  # fmt: skip
def test_configurations_that_are_not_supported(edit, how, match):
    folder = edit(how)
    refuse(lambda: read_checkpoint(folder, "octo"), match)


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("config.json", None, "not an Octo checkpoint: no config.json"),
        ("config.json", b"{", "config.json: not valid JSON"),
        ("config.json", b"{}", "config.json: field 'model' is missing"),
        ("example_batch.msgpack", None, "example_batch.msgpack is missing: it contains the cameras"),
        ("example_batch.msgpack", b"\x81", "example_batch.msgpack: not a complete msgpack file"),
        ("dataset_statistics.json", b"{", "dataset_statistics.json: not valid JSON"),
    ],
)
def test_small_files_that_are_missing_or_damaged(broken, file, content, match):
    os.remove(broken / file)
    if content is not None:
        (broken / file).write_bytes(content)
    refuse(lambda: read_checkpoint(broken, "octo"), match)


def test_no_weights(broken):
    shutil.rmtree(broken / "300000")
    refuse(lambda: load(broken), "has no weights: neither model.safetensors nor a folder like 300000/default/checkpoint")
    (broken / "5").mkdir()
    refuse(lambda: load(broken), r"5/default: has no file 'checkpoint'")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "has action statistics of 2 data sets: add unnorm_key=, one of bridge_dataset, fractal20220817_data"),
        ({"unnorm_key": "bridge"}, "unknown unnorm_key of .*octo 'bridge': did you mean bridge_dataset"),
        ({"window": "12"}, "window=12: this model's horizon is 10 time steps"),
        ({"n_action_steps": "5"}, "n_action_steps=5: a chunk of this model has 4 actions"),
        ({"n_action_steps": "2", "ensemble": "0"}, "n_action_steps and ensemble exclude each other"),
        ({"ddim": "21"}, "ddim=21: this model was trained on 20 steps"),
        ({"samples": "1"}, r"samples=1: .*\(valid: integer, minimum 2\)"),
        ({"action_mapping": "nowhere"}, "unknown action mapping 'nowhere'"),
        ({"action_mapping": ""}, "the units of its actions are unknown: add action_mapping="),
    ],
)
def test_options_that_do_not_fit(broken, options, match):
    chosen = {"action_mapping": "metres", "unnorm_key": "bridge_dataset"} | options if options else {"action_mapping": "metres"}
    refuse(lambda: resolve(str(broken), {k: v for k, v in chosen.items() if v}), match)


def test_head_that_does_not_denoise(edit):
    folder = edit(lambda m: m["heads"].update(action={"name": "L1ActionHead", "kwargs": {"readout_key": "readout_action"}}))
    refuse(
        lambda: resolve(str(folder), {"action_mapping": "metres", "ddim": "5"}), "ddim=5: this model's head does not denoise"
    )


def test_statistics(checkpoint):
    nested = checkpoint.statistics
    key, chosen = select(nested, "bridge_dataset", "normal", "x")
    assert key == "bridge_dataset" and chosen.dim == 7 and chosen.mask == [True] * 6 + [False]
    flat = nested["bridge_dataset"]
    assert select(flat, None, "bounds", "x") == ("the only data set", chosen)
    assert select({"one": flat}, None, "normal", "x")[0] == "one"
    refuse(lambda: select(flat, "bridge_dataset", "normal", "x"), "without a name: leave out unnorm_key=bridge_dataset")
    refuse(lambda: select({}, None, "normal", "x"), "dataset_statistics.json is missing")
    short = {"action": flat["action"] | {"std": [1.0]}}
    refuse(lambda: select(short, None, "normal", "x"), "need as many numbers in mean as in std and mask")
    refuse(lambda: select({"a": {"proprio": {}}}, None, "normal", "x"), "the action statistics of 'a': ")
    unbounded = {"action": {"mean": [0.0], "std": [1.0]}}
    assert select(unbounded, None, "normal", "x")[1].dim == 1
    refuse(lambda: select(unbounded, None, "bounds", "x"), "need as many numbers in p01 as in p99")


def test_statistics_of_another_data_set(edit):
    def longer(values):
        values["bridge_dataset"]["action"] = {"mean": [0.0] * 9, "std": [1.0] * 9}

    folder = edit(longer, "dataset_statistics.json")
    refuse(lambda: resolve(str(folder), {"action_mapping": "env", "unnorm_key": "bridge_dataset"}),
           "the action statistics of bridge_dataset have 9 dimensions, the model 7: they are of another data set")  # fmt: skip


def test_images_and_windows_that_do_not_fit(model):
    task = Task(torch.zeros(1, 16, 48), torch.ones(1, dtype=torch.bool))

    def see(size=256, window=1, key="image_primary", goal=None):
        image = torch.zeros(1, window, size, size, 3, dtype=torch.uint8)
        goals = {} if goal is None else {key: torch.zeros(1, goal, goal, 3, dtype=torch.uint8)}
        return model(Observation({key: image}, torch.ones(1, window, dtype=torch.bool)), task._replace(goals=goals))

    refuse(lambda: see(128), "image_primary is 128 x 128 pixels; this model needs 256 x 256")
    refuse(lambda: see(16, 11), "a window of 11 time steps; this model's horizon is 10")
    refuse(lambda: see(key="image_side"), "none of the images image_side is an input of the model: image_primary, image_wrist")
    refuse(lambda: see(goal=128), r"the goal for image_primary is \[128, 128\] pixels, the image \[256, 256\]")


def test_long_instructions_keep_their_end():
    ids, mask = pad([[7, 1], list(range(2, 30))], 4)
    assert ids.tolist() == [[7, 1, 0, 0], [2, 3, 4, 1]] and mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_tokenizer_padding_settings_are_ignored(tmp_path):
    """Octo's own call pads to 16 and cuts off; a fast tokenizer saves that."""
    tokenizer = tokenization.build(["lift the cube"], SPECIAL, "<unk>")
    ids = [Words(tokenizer.to_str().encode(), None, "x").ids("lift the cube")]
    for length in (2, 16):
        tokenizer.enable_padding(length=length)
        tokenizer.enable_truncation(length)
        ids.append(Words(tokenizer.to_str().encode(), None, "x").ids("lift the cube"))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    ids.append(Words(str(tmp_path), None, "x").ids("lift the cube"))
    assert all(row == ids[0] for row in ids) and len(ids[0]) > 3 and ids[0][-1] == EOS


# -- conversion


def test_convert(folder, model, tmp_path, capsys):
    out = tmp_path / "converted"
    assert main.main(["teacher", "convert", "octo", str(folder), str(out)]) == 0
    assert f"use it as octo:{out}" in capsys.readouterr().out
    names = {"config.json", "dataset_statistics.json", "example_batch.msgpack", "model.safetensors"}
    assert {p.name for p in out.iterdir()} == names
    again = load(out)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert json.loads((out / "config.json").read_text()) == model.config.source
    assert main.main(["teacher", "convert", "octo", str(folder), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    refuse(lambda: weights_file(out, 300000), "step=300000: this checkpoint was converted")
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:1000])
    refuse(lambda: load(out), "model.safetensors: not a safetensors file, or a damaged one")
