"""Values of a checkpoint that change what it means, or would hang: used as they are meant, or refused in one line."""

from __future__ import annotations

import json

import pytest

from rpd.envs.errors import ConfigError
from rpd.teachers.octo.checkpoint import read_checkpoint
from rpd.teachers.octo.setup import resolve


def refuse(call, match):
    with pytest.raises(ConfigError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda m: m["transformer_kwargs"].update(num_layers=10**9), "transformer_kwargs: num_layers: "),
        (lambda m: m["transformer_kwargs"].update(num_attention_heads=5), "token_embedding_size 48 is not a multiple"),
        (lambda m: m["transformer_kwargs"].update(mlp_dim=-1), "transformer_kwargs: mlp_dim: "),
        (lambda m: m["heads"]["action"]["kwargs"].update(diffusion_steps=10**7), "head action: diffusion_steps: "),
        (lambda m: m["heads"]["action"]["kwargs"].update(num_blocks=10**9), "head action: num_blocks: "),
        (lambda m: m["heads"]["action"]["kwargs"].update(action_horizon=10**9), "head action: action_horizon: "),
        (lambda m: m["heads"]["action"]["kwargs"].update(max_action=float("nan")), "head action: max_action: "),
        (lambda m: m.update(token_embedding_size=10**12), "width: "),
        (lambda m: m.update(max_horizon=10**9), "max_horizon: "),
        (lambda m: m.update(readouts={"action": 10**9}), "readouts.action: "),
        (lambda m: m["observation_tokenizers"]["wrist"]["kwargs"]["encoder"]["kwargs"].update(features=[33, 64, 96, 64]),
         "encoder of wrist: features: "),
    ],
)  # fmt: skip
def test_values_out_of_bounds(edit, how, match):
    """They would hang, fill the memory, or end in a traceback."""
    folder = edit(how)
    refuse(lambda: read_checkpoint(folder, "octo"), f"config.json: {match}")


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "org/model", "hf://org/model"])
def test_checkpoint_cannot_name_other_paths(broken, name):
    """The name of its tokenizer is looked for as a folder, a file and on the hub."""
    values = json.loads((broken / "config.json").read_text())
    values["text_processor"]["kwargs"]["tokenizer_name"] = name
    (broken / "config.json").write_text(json.dumps(values))
    refuse(lambda: read_checkpoint(broken, "octo"), "config.json: tokenizer: ")


CROPS = {"primary": {"random_resized_crop": {"scale": [0.8, 1.0], "ratio": [0.9, 1.1]}}, "wrist": {}}


@pytest.mark.parametrize("augment", [CROPS, [CROPS["primary"], {}], CROPS["primary"]])
@pytest.mark.parametrize("file", ["config.json", "finetune_config.json"])
def test_random_crops_that_the_checkpoint_speaks_of(broken, augment, file):
    """Where training showed random crops, it has to be said which part is shown now; a fine-tune's own file counts."""
    known = {"action_mapping": "metres", "unnorm_key": "bridge_dataset"}
    values = json.loads((broken / "config.json").read_text())
    transforms = {"frame_transform_kwargs": {"image_augment_kwargs": augment}}
    (broken / file).write_text(json.dumps({**values, **transforms} if file == "config.json" else transforms))
    said = (
        rf"according to {file}, it was trained on random crops of 0.8 to 1 of the area of image_primary: add crop=0.9 .*crop=1"
    )
    refuse(lambda: resolve(str(broken), known), said)
    assert resolve(str(broken), {**known, "crop": "0.9"}).crop == 0.9
    (broken / "finetune_config.json").write_text("{}")
    assert resolve(str(broken), known).crop is None


@pytest.mark.parametrize("file", ["config.json", "finetune_config.json"])
def test_normalization_of_the_checkpoint(broken, file):
    known = {"action_mapping": "metres", "unnorm_key": "bridge_dataset"}
    values = json.loads((broken / "config.json").read_text())
    assert resolve(str(broken), known).normalization == "normal"
    (broken / file).write_text(json.dumps({**values, "dataset_kwargs": {"action_proprio_normalization_type": "bounds"}}))
    assert resolve(str(broken), known).normalization == "bounds"
    assert resolve(str(broken), {**known, "normalization": "normal"}).normalization == "normal"
    (broken / file).write_text(json.dumps({**values, "dataset_kwargs": {"action_proprio_normalization_type": "none"}}))
    refuse(lambda: resolve(str(broken), known), rf"{file}: action_proprio_normalization_type 'none' is not supported")


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("normal", "std", -0.1, "std of dimension 2 is -0.1, which would mirror it"),
        (
            "normal",
            "std",
            0.0,
            "std of dimension 2 is 0, which would freeze it: if that is intended, its mask must be false",
        ),
        ("bounds", "p01", 9.0, r"\(p99 - p01\) / 2 of dimension 2 is -[\d.]+, which would mirror it"),
    ],
)
def test_statistics_that_mirror_an_axis_or_hold_it_still(edit, kind, field, value, said):
    def spoil(values):
        values["bridge_dataset"]["action"][field][2] = value

    name, options = str(edit(spoil, "dataset_statistics.json")), {"action_mapping": "metres", "unnorm_key": "bridge_dataset"}
    options["normalization"] = kind
    refuse(lambda: resolve(name, options), rf"dataset_statistics.json: the action statistics of 'bridge_dataset': {said}")
    edit(lambda values: values["bridge_dataset"]["action"].update(mask=[False] * 7), "dataset_statistics.json")
    assert resolve(name, options).statistics.dim == 7
