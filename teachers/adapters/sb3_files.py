"""Read models saved by stable-baselines3, without it; everything in the zip must be understood."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import check_not_pointer, check_weights

MAX_BYTES = 2**30
DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, RecursionError, RuntimeError, pickle.UnpicklingError, EOFError
)  # fmt: skip
"""Exceptions raised for a damaged zip, or a damaged file in it."""
ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")
ACTIVATIONS = ("Tanh", "ReLU", "ELU", "LeakyReLU")
FLATTEN = "<class 'stable_baselines3.common.torch_layers.FlattenExtractor'>"
POLICIES = {
    "stable_baselines3.common.policies": "PPO, A2C or TRPO",
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3 or DDPG",
    "sb3_contrib.tqc.policies": "TQC",
}
"""Supported policy modules; those of sb3-contrib have the same actors."""
IGNORED = {
    *("net_arch", "n_critics", "n_quantiles", "share_features_extractor"),
    *("ortho_init", "log_std_init", "optimizer_class", "optimizer_kwargs"),
    *("normalize_images", "full_std", "use_expln", "clip_mean"),
}
"""Policy options that are visible in the weights, used in training only, or specific to images or gSDE."""


@dataclass(frozen=True)
class Saved:
    """Content of a zip."""

    weights: dict[str, Tensor]
    activation: str | None
    """Class name in torch.nn; None: the algorithm's default."""
    algorithm: str
    """Algorithms with this kind of policy."""
    normalized: bool | None
    """Whether it was trained behind VecNormalize; None: unknown."""


def read(path: Path) -> Saved:
    """Read a model saved by ``model.save(path)``.

    Raises:
        ConfigError: a missing or damaged file, or unsupported content; names it.
    """
    try:
        check_not_pointer(path)
        with zipfile.ZipFile(path) as file:
            data = json.loads(_unpacked(file, "data"))
            weights = torch.load(io.BytesIO(_unpacked(file, "policy.pth")), map_location="cpu", weights_only=True)
        if not isinstance(data, dict) or not isinstance(weights, dict):
            raise ValueError
        check_weights(weights, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED:
        raise ConfigError(f"{path}: not a model saved by stable-baselines3, or a damaged one") from None
    try:
        algorithm = _algorithm(data)
        _check_spaces(data)
        return Saved(weights, _activation(data), algorithm, _normalized(data))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _unpacked(file: zipfile.ZipFile, name: str) -> bytes:
    """Read a file of a zip, with a size limit: a few bytes could unpack to any number.

    Raises:
        ConfigError: more than `MAX_BYTES`.
        KeyError: the file does not exist.
    """
    if (size := file.getinfo(name).file_size) > MAX_BYTES:
        raise ConfigError(f"{file.filename}: {name} unpacks to {size:,} bytes, more than a policy on vector states")
    return file.read(name)


def _algorithm(data: dict[str, Any]) -> str:
    """Algorithm that saved the policy; raises ValueError for other kinds of policy."""
    module = str(_shown(data, "policy_class").get("__module__"))
    if module not in POLICIES:
        supported = ", ".join(POLICIES.values())
        raise ValueError(f"its policy is defined in {module}, which is not supported; supported are those of {supported}")
    if data.get("use_sde"):
        raise ValueError("it explores with gSDE (use_sde=True), which is not supported")
    return POLICIES[module]


def _check_spaces(data: dict[str, Any]) -> None:
    """Refuse observations that are not vectors, and action ranges other than -1 to 1; raises ValueError."""
    for key in ("observation_space", "action_space"):
        space = _shown(data, key)
        kind = str(space.get(":type:", "of unknown type"))
        one = isinstance(size := space.get("_shape"), list) and len(size) == 1
        if not kind.endswith(".box.Box'>") or not one or "float" not in str(space.get("dtype")):
            shape = f" {space['_shape']} of {space.get('dtype')}" if "_shape" in space else ""
            raise ValueError(f"its {key} is {kind}{shape}; only a Box of one dimension, of floats, is supported")
    for key, bound in (("low", -1.0), ("high", 1.0)):
        numbers = [float(x) for x in re.findall(r"[-+.\w]+", str(_shown(data, "action_space").get(key, "")))]
        if not numbers or any(number != bound for number in numbers):
            raise ValueError(f"its actions have {key} {numbers}, and environments here have -1 to 1")


def _activation(data: dict[str, Any]) -> str | None:
    """Activation function; raises ValueError for unsupported options of the policy."""
    options = {key: value for key, value in _shown(data, "policy_kwargs").items() if not key.startswith(":")}
    named = options.pop("activation_fn", None)
    extractor = options.pop("features_extractor_class", FLATTEN)
    if extractor != FLATTEN or options.pop("features_extractor_kwargs", None):
        raise ValueError(f"it has a features extractor ({extractor}); only policies on vector states are supported")
    for name in ("use_sde", "squash_output"):
        if options.pop(name, False) not in (False, "False"):
            raise ValueError(f"its policy has {name}=True, which is not supported")
    if unknown := sorted(options.keys() - IGNORED):
        raise ValueError(f"its policy has options that are not understood: {', '.join(unknown)}")
    if named is None:
        return None
    match = ACTIVATION.fullmatch(str(named))
    if match is None or match[1] not in ACTIVATIONS:
        raise ValueError(f"activation {match[1] if match else named} is not supported; supported: {', '.join(ACTIVATIONS)}")
    return match[1]


def _normalized(data: dict[str, Any]) -> bool | None:
    """Whether the model was trained behind VecNormalize.

    ``_last_original_obs`` is the last input of VecNormalize. On-policy algorithms set it only behind VecNormalize; others
    always do during training.
    """
    if "_last_original_obs" not in data:
        return None
    if data["_last_original_obs"] is None:
        return False
    return None if "replay_buffer_class" in data else True


def _shown(data: dict[str, Any], key: str) -> dict[str, Any]:
    """JSON form of an entry: serialized objects have their type and attributes as text.

    Raises:
        ValueError: it is not an object.
    """
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"its {key} is {str(value)[:40]!r}, not what stable-baselines3 saves")
    return value
