"""Build the model to fine-tune, from settings and demonstrations."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from rpd.config.vla_finetuning import CloneConfig, Family
from rpd.datasets.reader import Demos
from rpd.datasets.statistics import dataset_statistics
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.specs import ActionSpec
from rpd.students.identity import folder_identity
from rpd.teachers.vla import model_sizes
from rpd.teachers.vla.action_mapping import FILE as ACTION_MAPPING
from rpd.teachers.vla.trainable import TrainableVLA

LORA_LR, FINETUNE_LR, NEW_LR = 5e-4, 2e-5, 1e-3


class Data(NamedTuple):
    """Dataset metadata stored with the model: action statistics, instructions, action dimension."""

    statistics: dict[str, Any]
    """Content of dataset_statistics.json, for these demonstrations only."""
    instructions: list[str]
    action_dim: int
    files: dict[str, bytes]
    """Small files stored with the weights: action_mapping.yaml."""


def is_new(config: CloneConfig) -> bool:
    """Return whether the model starts from random weights."""
    return config.init in model_sizes.names(config.family)


def check_init(config: CloneConfig) -> None:
    """Check that ``init`` is a model size or may be a checkpoint (a path or a Hub name), before anything is loaded.

    Raises:
        ConfigError: it is neither; names the nearest size.
    """
    if not is_new(config) and not Path(config.init).exists() and "/" not in config.init:
        raise unknown_name("size of a new model", config.init, [*model_sizes.names(config.family), "<checkpoint>"])


def init_identity(config: CloneConfig) -> str | None:
    """Return the digest of the initial checkpoint, whose frozen weights the run's checkpoints lack; None: a new model."""
    if is_new(config):
        return None
    checkpoint_folder = importlib.import_module(f"rpd.teachers.{config.family}.checkpoint").checkpoint_folder
    return folder_identity(checkpoint_folder(config.init, weights=True))


def learning_rate(config: CloneConfig) -> float:
    """Return the learning rate after the warm-up."""
    if config.learning_rate is not None:
        return config.learning_rate
    return LORA_LR if config.lora else NEW_LR if is_new(config) else FINETUNE_LR


def build(config: CloneConfig, demos: Demos, camera: str, space: ActionSpec, device: torch.device) -> TrainableVLA:
    """Build a new model, or load the checkpoint to fine-tune.

    Raises:
        ConfigError: no such checkpoint, or incompatible settings.
    """
    if is_new(config) and config.lora:
        raise ConfigError(
            f"--lora {config.lora} adapts a pretrained model, and --init {config.init} is a new one: leave it out"
        )
    image_size = int(demos.read(0, camera, [0]).shape[1])
    files = {ACTION_MAPPING: action_mapping(space, camera.removeprefix("image."), image_size, config.key, demos.control_hz(0))}
    instructions = [episode.instruction for episode in demos.episodes]
    data = Data(dataset_statistics(demos, config.key), instructions, space.dim, files)
    builders: dict[Family, Callable[[CloneConfig, Data, torch.device, torch.dtype], TrainableVLA]]
    builders = {"openvla": _openvla, "octo": _octo}
    learner = builders[config.family](config, data, device, torch.float32 if config.dtype == "fp32" else torch.bfloat16)
    learner.module.train()
    return learner


def _openvla(config: CloneConfig, data: Data, device: torch.device, dtype: torch.dtype) -> TrainableVLA:
    from rpd.teachers.openvla import weights
    from rpd.teachers.openvla.checkpoint import checkpoint_folder, read_checkpoint
    from rpd.teachers.openvla.config import TinyViT
    from rpd.teachers.openvla.init_model import new_checkpoint
    from rpd.teachers.openvla.model import OpenVLA
    from rpd.teachers.openvla.trainable import TrainableOpenVLA

    if is_new(config):
        size = model_sizes.read("openvla", config.init)
        checkpoint = new_checkpoint(
            config.init, data.instructions, data.statistics, size["image_size"], [TinyViT(**vit) for vit in size["vits"]],
            size["llama"], files=data.files,
        )  # fmt: skip
        model = OpenVLA(checkpoint.config).to(device)
    else:
        folder = checkpoint_folder(config.init, weights=True)
        given = read_checkpoint(folder, config.init)
        checkpoint = given.with_data(data.statistics, data.files)
        precision = torch.bfloat16 if config.lora and device.type == "cuda" else torch.float32
        model = weights.load(given, folder, precision, device)
    return TrainableOpenVLA(checkpoint, model, config.key, config.smoothing, config.scene_weight, config.lora, dtype)


def _octo(config: CloneConfig, data: Data, device: torch.device, dtype: torch.dtype) -> TrainableVLA:
    from rpd.teachers.octo import weights
    from rpd.teachers.octo.checkpoint import checkpoint_folder, read_checkpoint
    from rpd.teachers.octo.init_model import new_checkpoint, read_size
    from rpd.teachers.octo.language import TOKENIZER, load_tokenizer
    from rpd.teachers.octo.trainable import TrainableOcto

    if config.smoothing:
        raise ConfigError(f"--smoothing {config.smoothing:g} applies to action bins, and --family octo has none: leave it out")
    if is_new(config):
        checkpoint, model = new_checkpoint(
            config.init, data.instructions, data.statistics, read_size(config.init), data.action_dim, data.files
        )
        model.to(device)
    else:
        folder = checkpoint_folder(config.init, weights=True)
        given = read_checkpoint(folder, config.init)
        tokenizer = load_tokenizer(given.tokenizer, f"octo:{config.init}").to_str().encode()
        checkpoint = given.with_data(data.statistics, {**data.files, TOKENIZER: tokenizer})
        model = weights.load(given, folder, device=device)
    return TrainableOcto(checkpoint, model, config.key, config.scene_weight, config.lora, dtype)


def action_mapping(space: ActionSpec, camera: str, image_size: int, key: str, control_hz: float) -> bytes:
    """Return the action mapping (YAML) of the fine-tuned model: physical sizes of the demonstrations' normalized actions.

    The model is trained on uncropped images, also if the initial checkpoint was trained on crops. See
    `rpd.teachers.vla.action_mapping`.
    """
    action: dict[str, Any] = {}
    for name, unit, scale, discrete in zip(space.names, space.units, space.scale, space.discrete, strict=True):
        action[name] = {"open": 1, "closed": -1} if discrete else {"unit": unit, "scale": scale}
    content = {
        "action": action, "frame": space.frame, "control_hz": control_hz, "unnorm_key": key, "camera": camera,
        "image_size": image_size, "crop": 1.0,
    }  # fmt: skip
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None).encode()
