"""Build, describe and identify teachers by policy reference (`rpd.teachers.refs`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rpd.envs.errors import ConfigError, unknown_name
from rpd.students.identity import combine, file_identity, folder_identity
from rpd.teachers import zoo
from rpd.teachers.families import CONNECTION, FAMILIES
from rpd.teachers.refs import PolicyRef, parse, trained_path

if TYPE_CHECKING:
    import torch

    from rpd.envs.specs import EnvSpec
    from rpd.teachers.base import CameraRequest, Description, Footprint, Teacher


STUDENT = "rpd.teachers.adapters.student"
"""Module that builds teachers from paths of trained policies; its functions are those of `Family.module`."""

RENAMED = {"bridge": "action_mapping", "flip": "gripper_error_rate", "rise": "early_lift"}
"""Present names of options by their former ones, for error messages."""


class Options(BaseModel):
    """Base class of a family's options, the part of a reference after the commas."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(model: type[OptionsT], options: dict[str, str], where: str) -> OptionsT:
    """Turn option strings into typed, validated values.

    Args:
        model: the family's options; its field constraints are the valid ranges.
        options: options of a `PolicyRef`.
        where: the family, for messages, e.g. ``"scripted"``.

    Raises:
        ConfigError: names the option, the value and valid values.
    """
    for key in options:
        if key not in model.model_fields:
            raise (
                unknown_name(f"option of teacher {where}", key, model.model_fields, RENAMED)
                if model.model_fields
                else ConfigError(f"unknown option of teacher {where} '{key}': it has no options")
            )
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""  # no key: incompatible options
        given = f"{key}={options[key]}: " if key in options else ""
        raise ConfigError(f"teacher {where}: {given}{first['msg']}{_valid_range(model, key)}") from None


def make(ref: str | Path, spec: EnvSpec, device: torch.device | str = "cpu") -> Teacher:
    """Build a teacher and check that it fits the environment.

    Args:
        ref: policy reference, e.g. ``"scripted:noise=0.5"`` or ``"runs/x"``; see `list_teachers`.
        spec: the environment it will label.
        device: device for the computation.

    Raises:
        ConfigError: an unknown reference or option, a bad value, a missing file, or a policy that cannot label.
        SpecMismatch: the teacher was made for another environment.
    """
    import torch

    parsed, module = _find(ref)
    teacher: Teacher = module.from_string(parsed.argument, parsed.options, spec, torch.device(device))
    teacher.name, teacher.space = parsed.text, spec.action
    teacher.check_env(spec)
    return teacher


def camera_request(ref: str | Path) -> CameraRequest:
    """Return the cameras that a teacher reads, from its reference alone; reads no weights.

    Raises:
        ConfigError: see `make`.
    """
    parsed, module = _find(ref)
    from rpd.teachers.base import CameraRequest

    return module.camera_request(parsed.argument, parsed.options) if hasattr(module, "camera_request") else CameraRequest()


def describe(ref: str | Path, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment, without its weights if possible.

    Args:
        ref: see `make`.
        spec: the environment.
        instruction: an example instruction of its task.

    Raises:
        ConfigError: see `make`.
    """
    parsed, module = _find(ref)
    from rpd.teachers.vla.action_table import describe_own_actions

    if hasattr(module, "describe"):
        return module.describe(parsed.argument, parsed.options, spec, instruction)
    teacher = make(ref, spec)
    return describe_own_actions({"output fields": ", ".join(sorted(teacher.output_fields))}, [], spec, parsed.text)


def footprint(ref: str | Path, spec: EnvSpec, device: torch.device, rows: int) -> Footprint | None:
    """Estimate the memory of a teacher, without its weights.

    Args:
        ref: see `make`.
        spec: the environment that it will label.
        device: device for the computation.
        rows: number of environments per query.

    Returns:
        None for teachers that are small or run remotely: these can be built for inspection.

    Raises:
        ConfigError: see `make`.
    """
    parsed, module = _find(ref)
    return module.footprint(parsed.argument, parsed.options, spec, device, rows) if hasattr(module, "footprint") else None


def identity(ref: str | Path) -> str | None:
    """Digest of a teacher or a trained policy: family, options and content of its files; None if a server has none.

    A trained policy without options has the digest of its files alone.

    Raises:
        ConfigError: see `make`.
    """
    parsed, module = _find(ref)
    chosen = {k: _content(v) for k, v in parsed.options.items() if k not in CONNECTION}
    files = module.identity(parsed.argument, parsed.options) if hasattr(module, "identity") else _content(parsed.argument or "")
    if files is None or (parsed.path is not None and not chosen):
        return files
    shipped = module.__name__.startswith("rpd.teachers.") or module.__file__ is None
    code = module.__name__ if shipped else file_identity(Path(module.__file__ or ""))
    return combine(code, chosen, files)


def _content(value: str) -> str:
    """Value of an option; the digest of the content if it is the path of a file or a folder."""
    path = Path(value)
    return file_identity(path) if path.is_file() else folder_identity(path) if value and path.is_dir() else value


def list_teachers() -> list[tuple[str, str]]:
    """Return (syntax, one-line description) of every kind of teacher and every shipped model."""
    trained = ("RUN[,samples=N][,sampler=NAME]", "a trained policy: a run, a checkpoint or a policy folder")
    shipped = [(zoo.PREFIX + name, f"a small {family} model, included in rpd") for name, family in zoo.MODELS.items()]
    return [trained, *((family.pattern, family.description) for family in FAMILIES.values()), *shipped]


def _find(ref: str | Path) -> tuple[PolicyRef, ModuleType]:
    """Parse a teacher's reference and import the module that builds it."""
    parsed = parse(ref)
    if parsed.is_baseline:
        raise ConfigError(f"{parsed.text} ignores observations and cannot be a teacher: name a teacher or a trained policy")
    trained_path(ref, "teacher")
    return parsed, importlib.import_module(STUDENT if parsed.family is None else FAMILIES[parsed.family].module)


def _valid_range(model: type[Options], key: str) -> str:
    """Describe the valid values of an option, e.g. ``" (valid: number, minimum 0, maximum 1)"``."""
    schema = model.model_json_schema()["properties"].get(key, {})
    words = [str(schema["type"])] if "type" in schema and "enum" not in schema else []
    for word, label in {
        "minimum": "minimum", "exclusiveMinimum": "above", "maximum": "maximum", "exclusiveMaximum": "below",
    }.items():  # fmt: skip
        if word in schema:
            words.append(f"{label} {schema[word]:g}")
    return f" (valid: {', '.join(words)})" if words else ""
