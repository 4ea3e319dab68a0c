"""Configurations: the real model's size, and one line for what is not supported."""

from __future__ import annotations

import json

import pytest
import torch

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla.checkpoint import checkpoint_folder, read_checkpoint
from rpd.teachers.openvla.config import Normalize, OpenVLAConfig, ProcessorConfig
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.weights import unused

OPENVLA_7B = {
    "model_type": "openvla",
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "image_sizes": [224, 224],
    "use_fused_vision_backbone": True,
    "text_config": {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000, "torch_dtype": "bfloat16"},
}


def test_openvla_7b():
    """7,541,237,184 parameters in the file, less what inference never reads."""
    config = OpenVLAConfig.model_validate(OPENVLA_7B)
    assert config.num_patches == 256 and config.vocab == 32000
    with torch.device("meta"):
        model = OpenVLA(config)
    dino = 1024 * (3 * 1024 + 1024 + 2 * 4096) + 3 * 1024 + 1024 + 4096 + 1024 + 2 * 2 * 1024 + 2 * 1024
    siglip = 1152 * (3 * 1152 + 1152 + 2 * 4304) + 3 * 1152 + 1152 + 4304 + 1152 + 2 * 2 * 1152
    pool = 1152 + 1152 * (1152 + 2 * 1152 + 1152 + 2 * 4304) + 1152 + 2 * 1152 + 1152 + 2 * 1152 + 4304 + 1152
    norms = 2 * 1024 + 2 * 1152
    assert model.num_parameters + dino + siglip + pool + norms == 7_541_237_184
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert shapes["vision_backbone.featurizer.blocks.22.ls1.scale_factor"] == [1024]
    assert shapes["vision_backbone.fused_featurizer.blocks.25.mlp.fc1.weight"] == [4304, 1152]
    assert shapes["vision_backbone.featurizer.reg_token"] == [1, 4, 1024]
    assert shapes["projector.fc1.weight"] == [8704, 2176] and shapes["projector.fc3.weight"] == [4096, 4096]
    assert shapes["language_model.model.layers.31.mlp.down_proj.weight"] == [4096, 11008]
    assert shapes["language_model.lm_head.weight"] == [32064, 4096]
    assert "vision_backbone.featurizer.blocks.23.norm1.weight" not in shapes
    assert model.language_model.config.rms_norm_eps == 1e-6


def test_unused_tensors():
    pattern = unused(OpenVLAConfig.model_validate(OPENVLA_7B))
    for name in ("featurizer.blocks.23.norm1.weight", "featurizer.norm.bias", "fused_featurizer.attn_pool.q.bias"):
        assert pattern.match(f"vision_backbone.{name}")
    for name in ("featurizer.blocks.22.norm1.weight", "featurizer.normal", "fused_featurizer.blocks.23.norm1.weight"):
        assert not pattern.match(f"vision_backbone.{name}")


def test_one_backbone():
    single = OPENVLA_7B | {
        "timm_model_ids": ["vit_so400m_patch14_siglip_384"],
        "timm_override_act_layers": [None],
        "image_sizes": [384],
        "use_fused_vision_backbone": False,
    }
    config = OpenVLAConfig.model_validate(single)
    assert config.num_patches == 27 * 27
    with torch.device("meta"):
        shapes = {name: list(p.shape) for name, p in OpenVLA(config).named_parameters()}
    assert shapes["projector.fc1.weight"] == [4096, 1152] and "projector.fc3.weight" not in shapes
    assert not any(name.startswith("vision_backbone.fused") for name in shapes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "llava"}, r"config.json: model_type: Input should be 'openvla'"),
        ({"timm_model_ids": None}, r"config.json: timm_model_ids: Field required"),
        (
            {"tiny_vit_kwargs": None},
            r"config.json: vision backbone 'tiny_vit_dinov2_reg4' is not supported; supported: vit",
        ),
        (
            {"tiny_vit_kwargs": None, "timm_model_ids": ["vit_large_patch14_clip_336.openai", "x"]},
            r"vision backbone 'vit_large_patch14_clip_336.openai' is not supported",
        ),
        ({"text_config": {"model_type": "phi", "vocab_size": 50304}}, r"language model 'phi' is not supported; supported: ll"),
        ({"text_config": {"model_type": "llama", "vocab_size": 100}}, r"vocab_size 100 leaves no room for action tokens"),
        ({"use_fused_vision_backbone": False}, r"is False, but timm_model_ids names 2 backbones"),
        ({"image_sizes": [70]}, r"image_sizes \[70\]: one per backbone"),
        ({"image_sizes": [70, 84]}, r"image_sizes \[70, 84\]: one per backbone is needed, with equally many patches"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, r"\['quick_gelu', None\] is not supported"),
        ({"tiny_vit_kwargs": [{"depth": 3, "embed_dim": 24, "num_heads": 2, "class_token": False}]}, r"describes 1 backbones"),
        ({"tiny_vit_kwargs": [{"depth": 3, "embed_dim": 24, "num_heads": 2}] * 2}, r"tiny_vit_kwargs: a class token with a"),
        ({"tiny_vit_kwargs": [{"depth": 3, "width": 24}] * 2}, r"tiny_vit_kwargs.0.embed_dim: Field required"),
    ],
)
def test_configuration_refused(edit, fields, said):
    with pytest.raises(ConfigError, match=said) as error:
        read_checkpoint(edit("config.json", **fields), "vla")
    assert "\n" not in str(error.value)


LLAMA = {"model_type": "llama", "vocab_size": 32064, "hidden_size": 32, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "org/kernel"), ("_attn_implementation", "org/kernel"), ("auto_map", {"AutoModel": "x.Y"}),
        ("experts_implementation", "org/kernel"), ("rope_scaling", {"type": "linear", "factor": 8.0}),
        ("quantization_config", {"load_in_4bit": True}), ("pruned_heads", {"0": [1]}), ("new", None),
    ],
)  # fmt: skip
def test_keys_of_the_language_model_that_are_not_read(edit, key, value):
    """What is not on the list is refused: transformers' constructor takes anything."""
    with pytest.raises(ConfigError, match=rf"config.json: text_config.{key} is not supported$"):
        read_checkpoint(edit("config.json", text_config=LLAMA | {key: value}), "vla")


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**9}, {"num_hidden_layers": 0}, {"hidden_size": 10**9}, {"hidden_size": -32},
        {"hidden_size": 33},
        {"num_key_value_heads": 3}, {"head_dim": 3}, {"vocab_size": 10**12}, {"vocab_size": "many"}, {"hidden_act": "gelu"},
        {"intermediate_size": 10**9}, {"max_position_embeddings": 10**12}, {"rms_norm_eps": float("nan")}, {"rms_norm_eps": -1},
        {"rope_parameters": {"rope_type": "dynamic"}}, {"tie_word_embeddings": True}, {"pad_token_id": 10**6},
    ],
)  # fmt: skip
def test_values_of_the_language_model_out_of_bounds(edit, fields):
    with pytest.raises(ConfigError, match=r"config.json: text_config[.:]") as error:
        read_checkpoint(edit("config.json", text_config=LLAMA | fields), "vla")
    assert "\n" not in str(error.value)


def test_llama_config_of_both_transformers_versions(edit):
    """The whole of LlamaConfig, as 5.23 saves it, and a few keys that 4.40 wrote beside them."""
    transformers = pytest.importorskip("transformers")
    written = transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"}, rope_theta=5e5).to_dict()
    older = {"rope_scaling": None, "pretraining_tp": 1, "pruned_heads": {}, "attn_implementation": "sdpa", "typical_p": 1.0}
    read = read_checkpoint(edit("config.json", text_config=written | older), "vla").config
    assert OpenVLA(read).language_model.config.to_dict() == written | {"dtype": None}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_sizes": [10**9, 10**9]}, r"image_sizes.0: Input should be less than or equal to 4096"),
        ({"n_action_bins": 10**9}, r"n_action_bins: "),
        ({"pad_token_id": -1}, r"pad_token_id: "),
        ({"pad_token_id": 10**6}, r"pad_token_id 1000000 is not below text_config.vocab_size"),
        ({"architectures": ["OpenVLAForDiffusion"]}, r"architectures \['OpenVLAForDiffusion'\] are not supported"),
        ({"quantization_config": {"load_in_8bit": True}}, r"quantization_config: "),
        ({"tiny_vit_kwargs": [{"depth": 10**9, "embed_dim": 24, "num_heads": 2}] * 2}, r"tiny_vit_kwargs.0.depth: "),
        (
            {"tiny_vit_kwargs": [{"depth": 3, "embed_dim": 24, "num_heads": 5, "class_token": False}] * 2},
            "24 is not a multiple",
        ),
    ],
)
def test_values_out_of_bounds(edit, fields, said):
    with pytest.raises(ConfigError, match=rf"config.json: .*{said}"):
        read_checkpoint(edit("config.json", **fields), "vla")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"tvf_normalize_params": [{"mean": [0, 0, 0], "std": [1, -1, 1]}] * 2},
            r"params.0.std.1: .*greater than 0",
        ),
        (
            {"tvf_normalize_params": [{"mean": [0, 0, 0], "std": [1, 0, 1]}] * 2},
            r"params.0.std.1: .*greater than 0",
        ),
        ({"tvf_normalize_params": [{"mean": [float("nan"), 0, 0], "std": [1, 1, 1]}] * 2}, r"mean.0: .*finite"),
        ({"tvf_resize_params": [{"size": 70, "max_size": 80}] * 2}, r"tvf_resize_params.0.max_size: "),
        ({"tvf_resize_params": [{"size": 70, "interpolation": 9}] * 2}, r"tvf_resize_params.0.interpolation: "),
        ({"tvf_normalize_params": None}, r"preprocessor_config.json: tvf_normalize_params: Field required"),
        (
            {"tvf_normalize_params": [{"mean": [0, 0, 0], "std": [1, 1, 1]}]},
            r"config.json: tvf_normalize_params has 1 entries",
        ),
        (
            {"tvf_resize_params": [{"size": 70}, {"size": [70, 70]}]},
            r"config.json: tvf_resize_params differs between",
        ),
        ({"tvf_crop_params": [{"output_size": [84, 84]}] * 2}, r"json: images are resized to .* cropped to \(84, 84\), but"),
        ({"tvf_resize_params": [{"size": 96}] * 2}, r"json: images are resized to 96 and cropped to \(70, 70\), but the model"),
        ({"tvf_do_letterbox": True}, r"preprocessor_config.json: tvf_do_letterbox is true, but tvf_letterbox_fill is missing"),
    ],
)
def test_processor_refused(edit, fields, said):
    with pytest.raises(ConfigError, match=said):
        read_checkpoint(edit("preprocessor_config.json", **fields), "vla")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "dataset_statistics.json"])
def test_damaged_json(broken, name):
    (broken / name).write_bytes((broken / name).read_bytes()[:50])
    with pytest.raises(ConfigError, match=rf"{name}: .*(JSON|EOF)"):
        read_checkpoint(broken, "vla")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "dataset_statistics.json"])
def test_key_that_is_there_twice(broken, name):
    """Python takes the last, other readers the first."""
    content = (broken / name).read_text().strip()
    key = next(iter(json.loads(content)))
    (broken / name).write_text(content[:-1] + f', "{key}": 1}}')
    with pytest.raises(ConfigError, match=rf"{name}: not valid JSON \(the key '{key}' is there twice\)"):
        read_checkpoint(broken, "vla")


def test_not_a_checkpoint(tmp_path, broken):
    with pytest.raises(ConfigError, match=r"here: not an OpenVLA checkpoint: no config.json"):
        read_checkpoint(tmp_path, "here")
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"not an OpenVLA checkpoint: no preprocessor_config.json, and no image_processor in"):
        read_checkpoint(broken, "vla")


def test_processor_that_transformers_5_saved(broken, checkpoint):
    """It writes processor_config.json alone, and reads that first where both are there."""
    values = json.loads((broken / "preprocessor_config.json").read_text())
    (broken / "processor_config.json").write_text(json.dumps({"image_processor": values, "processor_class": "X"}))
    (broken / "preprocessor_config.json").write_text("{}")
    assert read_checkpoint(broken, "vla").processor == checkpoint.processor
    (broken / "preprocessor_config.json").unlink()
    assert read_checkpoint(broken, "vla").processor == checkpoint.processor
    (broken / "processor_config.json").write_text(json.dumps({"image_processor": values | {"tvf_crop_params": []}}))
    with pytest.raises(ConfigError, match=r"processor_config.json: tvf_crop_params: "):
        read_checkpoint(broken, "vla")
    (broken / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    with pytest.raises(ConfigError, match=r"no preprocessor_config.json, and no image_processor in processor_config.json"):
        read_checkpoint(broken, "vla")


def test_statistics_of_a_fine_tune_are_merged_over_the_base_model_s(edit, broken):
    edit("config.json", norm_stats={"base": {"action": {"q01": [0.0], "q99": [1.0]}}, "tiny_bridge": "old"})
    statistics = read_checkpoint(broken, "vla").statistics
    assert set(statistics) == {"base", "tiny_bridge", "tiny_human:7.0.0"} and statistics["tiny_bridge"] != "old"
    (broken / "dataset_statistics.json").unlink()
    assert set(read_checkpoint(broken, "vla").statistics) == {"base", "tiny_bridge"}


def test_processor_of_a_new_model(checkpoint):
    values = [Normalize(**n.model_dump()) for n in checkpoint.processor.tvf_normalize_params]
    made = ProcessorConfig.of(checkpoint.config, values)
    for field in ("image_resize_strategy", "tvf_resize_params", "tvf_crop_params", "tvf_normalize_params", "tvf_do_letterbox"):
        assert getattr(made, field) == getattr(checkpoint.processor, field)
    made.check(checkpoint.config)


# -- where a checkpoint is


@pytest.fixture
def hub(tmp_path, monkeypatch, folder):
    """A hub cache that holds one model, without the hub."""
    repo = tmp_path / "hub" / "models--org--vla"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("name", ["hf://org/vla", "org/vla", "hf://org/vla@main"])
@pytest.mark.parametrize("weights", [True, False])
def test_model_from_the_hub_s_cache(hub, name, weights):
    assert checkpoint_folder(name, weights) == hub
    assert read_checkpoint(checkpoint_folder(name, weights), name).config.model_type == "openvla"


def test_folder_comes_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "vla").mkdir(parents=True)
    assert str(checkpoint_folder("org/vla", True)) == "org/vla"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf://org/other", r"hf://org/other: neither on the hub nor in its cache \(\w+: "),
        ("org/other", r"org/other: no such folder here, and neither on the hub nor in its cache"),
        ("hf://org/vla@v2", r"hf://org/vla@v2: neither on the hub"),
        ("nowhere", r"nowhere: does not exist: expected a folder with an OpenVLA checkpoint, or hf://organisation/model"),
        ("/a/b/c", r"/a/b/c: does not exist"),
        (__file__, r"test_config.py: is a file: expected a folder"),
    ],
)
def test_model_that_is_nowhere(hub, name, said):
    with pytest.raises(ConfigError, match=said) as error:
        checkpoint_folder(name, True)
    assert "\n" not in str(error.value)
