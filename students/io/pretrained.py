"""A policy as a folder: ``config.json`` (what it is) and ``model.safetensors`` (its numbers). No pickle."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.config import GeneralistConfig, ResidualConfig, StudentConfig
from students.diffusion.config import DiffusionConfig
from students.files import digest, mismatch, write_bytes

if TYPE_CHECKING:
    from students.actor_critic import ActorCritic
    from students.diffusion.policy import DiffusionPolicy

SCHEMA = 1
CONFIG, MODEL = "config.json", "model.safetensors"


CLASSES = {
    "ActorCritic": "students.actor_critic",
    "ResidualActorCritic": "students.residual",
    "GeneralistActorCritic": "students.generalist",
    "DiffusionPolicy": "students.diffusion.policy",
}
"""The module of each kind of policy. Its class has ``build(Description)`` and ``describe() -> Description``."""


class Description(BaseModel):
    """What a policy is, without its numbers."""

    model_config = ConfigDict(extra="forbid")

    class_name: str
    spec: EnvSpec
    student: StudentConfig
    residual: ResidualConfig | None = None
    diffusion: DiffusionConfig | None = None
    base: Description | str | None = None
    """Of a residual: the policy inside that it adds to, or the name of the teacher outside."""
    generalist: GeneralistConfig | None = None
    members: tuple[EnvSpec, ...] | None = None
    """Of a generalist: every robot and task that it was made for."""


class _Config(Description):
    model: dict[str, int | str]


def save(policy: ActorCritic | DiffusionPolicy, folder: Path) -> None:
    """Write a policy folder. Each file is written atomically; an interrupted overwrite is noticed by `load`.

    Raises:
        OSError: e.g. a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()})
    head = _Config(**dict(policy.describe()), model=digest(weights))
    data = head.model_dump(mode="json", exclude_none=True)
    text = json.dumps({"schema": SCHEMA, **data, "sha256": _seal(data)}, indent=2)
    write_bytes(folder / MODEL, weights)
    write_bytes(folder / CONFIG, text.encode())


def load(folder: Path, device: torch.device | str = "cpu") -> ActorCritic | DiffusionPolicy:
    """Load a policy of any kind.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    head = _read_config(folder)
    path = folder / MODEL
    weights = _read(path)
    if problem := mismatch(digest(weights), head.model):
        raise ConfigError(f"{path}: {problem}")
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file ({error})") from None
    policy = build(head)
    fill(policy, tensors, folder)
    return policy.to(device)


def describe(folder: Path) -> Description:
    """Say what the policy in a folder is, without reading its numbers.

    Raises:
        ConfigError: see `load`.
    """
    return _read_config(folder)


def build(description: Description) -> ActorCritic | DiffusionPolicy:
    """Make the network of a description, with new numbers."""
    module = importlib.import_module(CLASSES[description.class_name])
    return getattr(module, description.class_name).build(description)


def _read_config(folder: Path) -> _Config:
    path = folder / CONFIG
    try:
        data: Any = json.loads(_read(path))
    except ValueError as error:  # not UTF-8, not JSON
        raise ConfigError(f"{path}: not valid JSON ({error}): truncated or altered?") from None
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ConfigError(f"{path}: schema {schema!r}, but this version of rpd reads schema {SCHEMA}")
    if data.pop("sha256", None) != _seal(data):
        raise ConfigError(f"{path}: altered: its SHA-256 differs from the one recorded when it was written")
    try:
        head = _Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: field '{where}': {first['msg']}") from None
    if head.class_name not in CLASSES:
        raise ConfigError(f"{path}: holds a policy of class '{head.class_name}', but this rpd knows {', '.join(CLASSES)}")
    return head


def fill(policy: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy weights into a network of exactly their names and shapes.

    Raises:
        ConfigError: naming the first tensor that does not fit.
    """
    expected = {k: list(v.shape) for k, v in policy.state_dict().items()}
    actual = {k: list(v.shape) for k, v in weights.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            theirs, ours = (f"shape {s[name]}" if name in s else "no such tensor" for s in (actual, expected))
            raise ConfigError(f"{folder / MODEL}: '{name}' has {theirs}, but {CONFIG} describes {ours}")
    policy.load_state_dict(weights)


def _seal(data: dict[str, Any]) -> str:
    """SHA-256 of a configuration's values: an action scale that changed unnoticed would move a robot wrongly."""
    return str(digest(json.dumps(data, sort_keys=True).encode())["sha256"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); a policy folder has {CONFIG} and {MODEL}") from None
