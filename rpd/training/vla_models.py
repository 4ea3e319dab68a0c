"""From settings and demonstrations to the model that learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from envs.errors import ConfigError, unknown_name
from envs.specs import ActionSpec
from rpd.cloning.config import CloneConfig, Family
from rpd.demos.reader import Demos
from rpd.demos.statistics import dataset_statistics
from teachers import sizes
from teachers.bridge import FILE as BRIDGE
from teachers.learner import Learner

LORA_LR, FINETUNE_LR, NEW_LR = 5e-4, 2e-5, 1e-3


class Data(NamedTuple):
    """What a model has to be told of the demonstrations."""

    statistics: dict[str, Any]
    """dataset_statistics.json, of these alone."""
    instructions: list[str]
    action_dim: int
    files: dict[str, bytes]
    """Small files to keep with the weights: bridge.yaml."""


def is_new(config: CloneConfig) -> bool:
    """Whether the model begins at random weights."""
    return config.init in sizes.names(config.family)


def learning_rate(config: CloneConfig) -> float:
    """The learning rate after the warm-up."""
    if config.lr is not None:
        return config.lr
    return LORA_LR if config.lora else NEW_LR if is_new(config) else FINETUNE_LR


def build(config: CloneConfig, demos: Demos, camera: str, space: ActionSpec, device: torch.device) -> Learner:
    """Make the model, new or given.

    Raises:
        ConfigError: no such size or checkpoint, or settings that do not go together.
    """
    if is_new(config) and config.lora:
        raise ConfigError(f"--lora {config.lora} adapts a given model, and --init {config.init} is a new one: leave it out")
    if not is_new(config) and not Path(config.init).exists() and not re.search("/", config.init):
        raise unknown_name("size of a new model", config.init, [*sizes.names(config.family), "<checkpoint>"])
    image_size = int(demos.read(0, camera, [0]).shape[1])
    files = {BRIDGE: bridge(space, camera.removeprefix("image."), image_size, config.key, demos.control_hz(0))}
    instructions = [episode.instruction for episode in demos.episodes]
    data = Data(dataset_statistics(demos, config.key), instructions, space.dim, files)
    builders: dict[Family, Callable[[CloneConfig, Data, torch.device, torch.dtype], Learner]]
    builders = {"openvla": _openvla, "octo": _octo}
    learner = builders[config.family](config, data, device, torch.float32 if config.dtype == "fp32" else torch.bfloat16)
    learner.module.train()
    return learner


def _openvla(config: CloneConfig, data: Data, device: torch.device, dtype: torch.dtype) -> Learner:
    from teachers.openvla import weights
    from teachers.openvla.checkpoint import locate, read_checkpoint
    from teachers.openvla.config import TinyViT
    from teachers.openvla.learn import OpenVLALearner
    from teachers.openvla.model import OpenVLA
    from teachers.openvla.new import new_checkpoint

    if is_new(config):
        size = sizes.read("openvla", config.init)
        checkpoint = new_checkpoint(
            config.init, data.instructions, data.statistics, size["image_size"], [TinyViT(**vit) for vit in size["vits"]],
            size["llama"], files=data.files,
        )  # fmt: skip
        model = OpenVLA(checkpoint.config).to(device)
    else:
        folder = locate(config.init, weights=True)
        given = read_checkpoint(folder, config.init)
        checkpoint = given.with_data(data.statistics, data.files)
        precision = torch.bfloat16 if config.lora and device.type == "cuda" else torch.float32
        model = weights.load(given, folder, precision, device)
    return OpenVLALearner(checkpoint, model, config.key, config.smoothing, config.scene_weight, config.lora, dtype)


def _octo(config: CloneConfig, data: Data, device: torch.device, dtype: torch.dtype) -> Learner:
    from teachers.octo import weights
    from teachers.octo.checkpoint import locate, read_checkpoint
    from teachers.octo.language import TOKENIZER, load_tokenizer
    from teachers.octo.learn import OctoLearner
    from teachers.octo.new import new_checkpoint, read_size

    if config.smoothing:
        raise ConfigError(f"--smoothing {config.smoothing:g} spreads over bins, which --family octo has none of: leave it out")
    if is_new(config):
        checkpoint, model = new_checkpoint(
            config.init, data.instructions, data.statistics, read_size(config.init), data.action_dim, data.files
        )
        model.to(device)
    else:
        folder = locate(config.init, weights=True)
        given = read_checkpoint(folder, config.init)
        tokenizer = load_tokenizer(given.tokenizer, f"octo:{config.init}").to_str().encode()
        checkpoint = given.with_data(data.statistics, {**data.files, TOKENIZER: tokenizer})
        model = weights.load(given, folder, device=device)
    return OctoLearner(checkpoint, model, config.key, config.scene_weight, config.lora, dtype)


def bridge(space: ActionSpec, camera: str, image_size: int, key: str, control_hz: float) -> bytes:
    """What the model's actions will mean: the physical size of the demonstrations' normalised ones. See `teachers.bridge`."""
    action: dict[str, Any] = {}
    for name, unit, scale, discrete in zip(space.names, space.units, space.scale, space.discrete, strict=True):
        action[name] = {"open": 1, "closed": -1} if discrete else {"unit": unit, "scale": scale}
    content = {
        "action": action, "frame": space.frame, "control_hz": control_hz, "unnorm_key": key, "camera": camera,
        "image_size": image_size,
    }  # fmt: skip
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None).encode()
