"""From settings and demonstrations to the model that learns."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

from envs.errors import ConfigError, unknown_name
from envs.specs import ActionSpec
from rpd.cloning.config import CloneConfig
from rpd.demos.reader import Demos
from rpd.demos.statistics import dataset_statistics
from teachers.bridge import FILE as BRIDGE
from teachers.learner import Learner

LORA_LR, FINETUNE_LR, NEW_LR = 5e-4, 2e-5, 1e-3


def sizes() -> list[str]:
    """Names of the sizes of new models."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def is_new(config: CloneConfig) -> bool:
    """Whether the model begins at random weights."""
    return config.init in sizes()


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
    from teachers.openvla import weights
    from teachers.openvla.checkpoint import locate, read_checkpoint
    from teachers.openvla.config import TinyViT
    from teachers.openvla.learn import OpenVLALearner
    from teachers.openvla.model import OpenVLA
    from teachers.openvla.new import new_checkpoint

    statistics = dataset_statistics(demos, config.key)
    image_size = int(demos.read(0, camera, [0]).shape[1])
    files = {BRIDGE: bridge(space, camera.removeprefix("image."), image_size, config.key, demos.control_hz(0))}
    dtype = torch.float32 if config.dtype == "fp32" else torch.bfloat16
    if is_new(config):
        if config.lora:
            raise ConfigError(f"--lora {config.lora} adapts a given model, and --init {config.init} is a new one: leave it out")
        size = yaml.safe_load(_folder().joinpath(f"{config.init}.yaml").read_text())
        checkpoint = new_checkpoint(
            config.init, [e.instruction for e in demos.episodes], statistics, size["image_size"],
            [TinyViT(**vit) for vit in size["vits"]], size["llama"], files=files,
        )  # fmt: skip
        model = OpenVLA(checkpoint.config).to(device)
    else:
        if not Path(config.init).exists() and not re.search("/", config.init):
            raise unknown_name("size of a new model", config.init, [*sizes(), "<checkpoint>"])
        folder = locate(config.init, weights=True)
        given = read_checkpoint(folder, config.init)
        checkpoint = given.with_data(statistics, files)
        precision = torch.bfloat16 if config.lora and device.type == "cuda" else torch.float32
        model = weights.load(given, folder, precision, device)
    model.train()
    return OpenVLALearner(checkpoint, model, config.key, config.smoothing, config.scene_weight, config.lora, dtype)


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


def _folder() -> Any:
    return resources.files("teachers").joinpath("openvla").joinpath("sizes")
