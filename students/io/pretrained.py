"""Policy folders: ``config.json`` (description) and ``model.safetensors`` (weights), without pickle."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.students.config import GeneralistConfig, ResidualConfig, StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.io.files import digest, mismatch, write_bytes
from rpd.students.io.untrusted import check_not_pointer, parse_object

SCHEMA = 1
CONFIG, MODEL = "config.json", "model.safetensors"


CLASSES = {
    "ActorCritic": "rpd.students.actor_critic",
    "ResidualActorCritic": "rpd.students.residual",
    "GeneralistActorCritic": "rpd.students.generalist",
    "DiffusionPolicy": "rpd.students.diffusion.policy",
}
"""Module of each policy class; the classes are subclasses of `PretrainedPolicy`."""
PARTS = {
    "ResidualActorCritic": ("residual", "base"),
    "GeneralistActorCritic": ("generalist", "members"),
    "DiffusionPolicy": ("diffusion",),
}
"""Additional fields of `Description` that each class requires."""


class Description(BaseModel):
    """Description of a policy without its weights."""

    model_config = ConfigDict(extra="forbid")

    class_name: str
    spec: EnvSpec
    student: StudentConfig
    residual: ResidualConfig | None = None
    diffusion: DiffusionConfig | None = None
    base: Description | str | None = None
    """Residual policies: the description of the contained base policy, or the name of the external teacher."""
    base_identity: str | None = None
    """External teacher: its digest when the policy was created (`rpd.teachers.registry.identity`), if known."""
    generalist: GeneralistConfig | None = None
    members: tuple[EnvSpec, ...] | None = None
    """Generalists: the spec of each robot and task it was built for."""


class _Config(Description):
    model: dict[str, int | str]


class PretrainedPolicy(nn.Module, ABC):
    """A network that is saved as a policy folder and rebuilt from the description in it."""

    @abstractmethod
    def describe(self) -> Description:
        """Describe the policy, without its weights."""

    @classmethod
    @abstractmethod
    def build(cls, description: Description) -> PretrainedPolicy:
        """Build the network of a description with new weights."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into `folder`."""
        save(self, Path(folder))


def save(policy: PretrainedPolicy, folder: Path) -> None:
    """Write a policy folder. Each file is written atomically; `load` detects an interrupted overwrite.

    Raises:
        OSError: e.g. a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()})
    head = _Config(**dict(policy.describe()), model=digest(weights))
    data = head.model_dump(mode="json", exclude_none=True)
    text = json.dumps({"schema": SCHEMA, **data, "sha256": _config_digest(data)}, indent=2)
    write_bytes(folder / MODEL, weights)
    write_bytes(folder / CONFIG, text.encode())


def load(folder: Path, device: torch.device | str = "cpu") -> PretrainedPolicy:
    """Load a policy of any class; `rpd.students.loading.load` has a typed result.

    Raises:
        ConfigError: a file is missing, damaged or invalid; names the file and the problem.
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
    try:
        with torch.device("meta"):  # allocates nothing: a configuration could have any size
            check_fits(build(head), tensors, folder)
        policy = build(head)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:  # inconsistent sizes
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder / CONFIG}: describes a policy that cannot be built ({reason})") from None
    policy.load_state_dict(tensors)
    return policy.to(device)


def describe(folder: Path) -> Description:
    """Read the description of the policy in a folder, without its weights.

    Raises:
        ConfigError: see `load`.
    """
    return _read_config(folder)


def identity(folder: Path) -> str:
    """Digest of a policy: that of its description, which contains the digest of its weights (`load` verifies both).

    Raises:
        ConfigError: see `load`.
    """
    return _config_digest(_read_config(folder).model_dump(mode="json", exclude_none=True))


def build(description: Description) -> PretrainedPolicy:
    """Build the network of a description with new weights."""
    kind: type[PretrainedPolicy] = getattr(importlib.import_module(CLASSES[description.class_name]), description.class_name)
    return kind.build(description)


def _read_config(folder: Path) -> _Config:
    path = folder / CONFIG
    data = parse_object(_read(path), str(path))
    schema = data.pop("schema", None)
    if schema != SCHEMA:
        raise ConfigError(f"{path}: schema {schema!r}, but this version of rpd reads schema {SCHEMA}")
    if data.pop("sha256", None) != _config_digest(data):
        raise ConfigError(f"{path}: altered: its SHA-256 differs from the one recorded when it was written")
    try:
        head = _Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"field '{'.'.join(map(str, first['loc']))}': " if first["loc"] else ""
        raise ConfigError(f"{path}: {where}{first['msg'].removeprefix('Value error, ')}") from None
    _check_complete(head, path)
    for spec in (head.spec, *(head.members or ())):
        user_files.record(spec.imports, str(folder))
    return head


def _check_complete(head: Description, path: Path) -> None:
    """Refuse an unknown policy class and a description that lacks required fields; also checks a contained base."""
    if head.class_name not in CLASSES:
        raise ConfigError(f"{path}: unknown policy class '{head.class_name}'; this version of rpd has {', '.join(CLASSES)}")
    if missing := [part for part in PARTS.get(head.class_name, ()) if not getattr(head, part)]:
        raise ConfigError(f"{path}: holds a policy of class '{head.class_name}', but not its {missing[0]}")
    if isinstance(head.base, Description):
        if head.base.class_name == "DiffusionPolicy":
            raise ConfigError(f"{path}: a policy of class '{head.base.class_name}' cannot be a base")
        _check_complete(head.base, path)


def check_fits(policy: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Refuse weights whose names, shapes or dtypes differ from the network's.

    Raises:
        ConfigError: names the first tensor that differs.
    """
    expected, actual = (
        {k: f"{list(v.shape)} of {str(v.dtype).removeprefix('torch.')}" for k, v in tensors.items()}
        for tensors in (policy.state_dict(), weights)
    )
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            theirs, ours = (f"shape {s[name]}" if name in s else "no such tensor" for s in (actual, expected))
            raise ConfigError(f"{folder / MODEL}: '{name}' has {theirs}, but {CONFIG} describes {ours}")


def _config_digest(data: dict[str, Any]) -> str:
    """SHA-256 of the values of a configuration: an undetected change of an action scale would move a robot wrongly."""
    return str(digest(json.dumps(data, sort_keys=True).encode())["sha256"])


def _read(path: Path) -> bytes:
    try:
        check_not_pointer(path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); a policy folder has {CONFIG} and {MODEL}") from None
