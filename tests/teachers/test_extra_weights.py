"""Files beside the weights that change what the weights mean are refused by name, those that do not are let pass."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError
from rpd.teachers import zoo
from rpd.teachers.adapters import sb3_files
from rpd.teachers.extra_weights import check_openvla, check_parts

RELEASED = [
    ".gitattributes", "README.md", "added_tokens.json", "config.json", "configuration_prismatic.py", "generation_config.json",
    "model-00001-of-00003.safetensors", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model-00001-of-00003.bin", "weights-00001-of-00002.safetensors", "training_args.bin", "optimizer.pt",
    "rng_state_0.pth", "scheduler.pt", "checkpoint-100/model.safetensors", "tokenizer.model", "action_mapping.yaml",
]  # fmt: skip
TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def test_released_checkpoint():
    check_openvla(RELEASED, "x")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("action_head--150000_checkpoint.pt", "OpenVLA-OFT is not supported, as its actions are not action tokens"),
        ("proprio_projector--150000_checkpoint.pt", "OpenVLA-OFT"),
        ("noisy_action_projector--5_checkpoint.pt", "OpenVLA-OFT"),
        ("vision_backbone--5_checkpoint.pt", "OpenVLA-OFT"),
        ("lora_adapter/adapter_config.json", "OpenVLA-OFT"),
        ("adapter_config.json", "an adapter .LoRA. that is not merged into the weights: merge it with peft"),
        ("adapter_model.safetensors", "an adapter"),
        ("default/adapter_config.json", "an adapter"),  # peft, of an adapter with a name
        ("checkpoint-100/adapter_model.safetensors", "an adapter"),
        ("action_decoder.pt", "additional weights that OpenVLA does not read"),
        ("action_head.safetensors", "additional weights that OpenVLA does not read"),
        ("film.pth", "additional weights that OpenVLA does not read"),
    ],
)
def test_parts_that_change_the_meaning(file, said):
    for files in ([*RELEASED, file], [file]):  # beside a base, and alone
        with pytest.raises(ConfigError, match=rf"^x: {file}: {said}") as error:
            check_openvla(files, "x")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "file",
    ["action_head.safetensors", "pytorch_lora_weights.safetensors", "ema.pt", "adapter_config.json", "a/adapter_model.bin"],
)
def test_unread_weight_files_are_refused(file):
    files = ["300000/default/checkpoint", "README.md", "config.json", "dataset_statistics.json", "example_batch.msgpack"]
    check_parts([*files, "model.safetensors"], "x", "Octo")
    with pytest.raises(ConfigError, match=rf"^x: {file}: (additional weights that Octo does not read|an adapter)"):
        check_parts([*files, file], "x", "Octo")


@pytest.mark.skipif(not TRANSFORMERS, reason="needs transformers")
@pytest.mark.parametrize("model", ["tabletop", "tabletop-octo"])
def test_adapter_in_a_folder(model, tmp_path, spec):
    """Both families, through the name that a person writes; alone in its folder, too."""
    from rpd.teachers import registry

    family, base = zoo.resolve(zoo.PREFIX + model)
    folder = tmp_path / "adapted"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    for full in (False, True):
        if full:
            for file in Path(base).iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
        for ask in (
            registry.camera_request,
            lambda name: registry.describe(name, spec, "lift"),
            lambda name: registry.make(name, spec),
        ):
            with pytest.raises(ConfigError, match=rf"{folder}: adapter_config.json: an adapter"):
                ask(f"{family}:{folder}")


def test_sb3_model_that_is_no_zip_or_one_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sb3_files, "MAX_BYTES", 10**5)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data", b" " * 10**6)
    with pytest.raises(ConfigError, match=r"large.zip: data unpacks to 1,000,000 bytes, more than a policy on vector states"):
        sb3_files.read(tmp_path / "large.zip")
    (tmp_path / "pointer.zip").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"pointer.zip: a git-lfs pointer in place of the file"):
        sb3_files.read(tmp_path / "pointer.zip")
