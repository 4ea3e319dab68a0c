"""Refuse checkpoints with extra files that change what the weights mean and that are not supported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from rpd.envs.errors import ConfigError

OFT = re.compile(r"(action_head|noisy_action_projector|proprio_projector|vision_backbone|pre_backbone)--.*\.pt$")
"""Extra modules saved by OpenVLA-OFT (finetune.py, save_training_checkpoint)."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""Files that peft saves instead of a model."""
OFT_ADAPTER = "lora_adapter/adapter_config.json"
WEIGHTS = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".h5", ".gguf"}
EXPECTED_FILES = re.compile(
    r"model\.safetensors|.*-\d{5}-of-\d{5}\.(safetensors|bin)|pytorch_model\.bin"  # the weights, in this or another format
    r"|(optimizer|scheduler|scaler|training_args|rng_state|random_states).*"  # state of a resumable training
)


def check_parts(files: Iterable[str], where: str, model: str) -> None:
    """Refuse incomplete models: adapters that are not merged, and unsupported weight files.

    Args:
        files: files of the checkpoint, by path inside it.
        where: the checkpoint, for messages.
        model: expected kind of model, e.g. ``"Octo"``.

    Raises:
        ConfigError: names the file.
    """
    paths = [PurePosixPath(file) for file in sorted(files)]
    if adapter := next((path for path in paths if path.name in ADAPTER), None):
        raise ConfigError(
            f"{where}: {adapter}: an adapter (LoRA) that is not merged into the weights: merge it with peft "
            "(merge_and_unload), save the model, and name that folder; or remove the adapter if the weights already include it"
        )
    top = [path for path in paths if len(path.parts) == 1]
    if other := next((f for f in top if f.suffix in WEIGHTS and not EXPECTED_FILES.fullmatch(f.name)), None):
        raise ConfigError(
            f"{where}: {other}: additional weights that {model} does not read are not supported; move the "
            "file elsewhere if this model does not"
        )


def check_openvla(files: Iterable[str], where: str) -> None:
    """Refuse OpenVLA-OFT, and everything that `check_parts` refuses.

    Raises:
        ConfigError: names the file.
    """
    files = sorted(files)
    if oft := next((file for file in files if OFT.match(file) or file == OFT_ADAPTER), None):
        raise ConfigError(
            f"{where}: {oft}: OpenVLA-OFT is not supported, as its actions are not action tokens; use a checkpoint "
            "of OpenVLA itself"
        )
    check_parts(files, where, "OpenVLA")
