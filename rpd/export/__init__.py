"""Export of policies: networks in ONNX with the metadata and the runtime that a robot's computer needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.export.runtime import SPEC, BadExport, Policy

if TYPE_CHECKING:
    from rpd.envs.specs import EnvSpec


def load(folder: Path, threads: int = 1) -> Policy:
    """Load an exported policy with its own runtime, see `Policy.load`; without torch.

    Raises:
        ConfigError: names the file and its defect, in one line.
    """
    try:
        policy = Policy.load(folder, threads)
    except BadExport as error:
        raise ConfigError(str(error)) from None
    spec_of(folder)
    return policy


def is_exported(path: Path) -> bool:
    """Whether a path is a folder that `rpd export` wrote."""
    return (path / SPEC).is_file()


def spec_of(folder: Path) -> EnvSpec:
    """Spec that an exported policy was trained on; reads only the spec file.

    Raises:
        ConfigError: the file is damaged.
    """
    from rpd.envs.specs import EnvSpec

    try:
        spec = EnvSpec.model_validate(json.loads((folder / SPEC).read_bytes())["spec"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        raise ConfigError(f"{folder / SPEC}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{folder / SPEC}: damaged: {' '.join(str(error).split())[:200]}") from None
    user_files.record(spec.imports, str(folder))
    return spec
