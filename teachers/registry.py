"""Teachers by name: ``family[:argument][,key=value...]``, e.g. ``scripted:noise=0.5,bias=0.02`` or ``policy:runs/x``.

A model that ships has a name of its own, ``zoo/NAME[,key=value...]``.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from envs.errors import ConfigError, unknown_name
from envs.options import keyed
from envs.specs import EnvSpec
from teachers import zoo
from teachers.base import Description, Footprint, Teacher, Views


class Family(NamedTuple):
    """One kind of teacher."""

    module: str
    """Module with ``from_string(argument, options, spec, device) -> Teacher``, and optionally
    ``needs(argument, options) -> Views``, ``describe(argument, options, spec, instruction) -> Description`` and
    ``footprint(argument, options, spec, device, rows) -> Footprint``."""
    pattern: str
    """How to write its name."""
    description: str
    """One line for `rpd list`."""


FAMILIES = {
    "scripted": Family(
        "teachers.scripted",
        "scripted[:PRESET][,DIAL=VALUE]...",
        "the task's privileged expert, with dials that make it weak in a chosen way",
    ),
    "policy": Family("teachers.policy", "policy:RUN", "a saved student: a run, a checkpoint or a policy folder"),
    "openvla": Family(
        "teachers.openvla",
        "openvla:FOLDER_OR_HUB_ID[,bridge=NAME][,unnorm_key=KEY][,camera=NAME]...",
        "an OpenVLA checkpoint, read natively; sees images and instructions",
    ),
    "octo": Family(
        "teachers.octo",
        "octo:FOLDER_OR_HUB_ID[,bridge=NAME][,unnorm_key=KEY][,samples=N][,window=N]...",
        "an Octo checkpoint, read natively; sees images and instructions, answers with samples",
    ),
    "remote": Family(
        "teachers.remote",
        "remote:ws://HOST:PORT[,token_file=FILE][,timeout=S][,retries=N]",
        "a policy behind `rpd serve`, or behind openpi's server (see teachers/openpi.py)",
    ),
    "sb3": Family("teachers.sb3", "sb3:FILE.zip", "a stable-baselines3 policy (PPO, A2C, SAC, TD3) on vector states"),
}


class Options(BaseModel):
    """Base of a family's options: what follows the commas in a teacher's name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OptionsT = TypeVar("OptionsT", bound=Options)


def parse(name: str) -> tuple[str, str | None, dict[str, str]]:
    """Split a teacher's name into family, argument and options.

    >>> parse("policy:runs/x")
    ('policy', 'runs/x', {})
    >>> parse("scripted:noise=0.5,bias=0.02")
    ('scripted', None, {'noise': '0.5', 'bias': '0.02'})

    Raises:
        ConfigError: an option without a value, or given twice.
    """
    family, *rest = re.split("[:,]", name, maxsplit=1)
    parts = rest[0].split(",") if rest else []
    argument = None
    if parts and name[len(family)] == ":" and not re.match(r"\w+=", parts[0]):
        argument = parts.pop(0) or None
    return family.strip(), argument, keyed(parts, f"teacher '{name}'", "key=value")


def parse_options(model: type[OptionsT], options: dict[str, str], where: str) -> OptionsT:
    """Turn option strings into typed, validated values.

    Args:
        model: the family's options; its field constraints are the valid ranges.
        options: from `parse`.
        where: the family, for messages, e.g. ``"scripted"``.

    Raises:
        ConfigError: naming the option, the value and what would be valid.
    """
    for key in options:
        if key not in model.model_fields:
            raise (
                unknown_name(f"option of teacher {where}", key, model.model_fields)
                if model.model_fields
                else ConfigError(f"unknown option of teacher {where} '{key}': it has no options")
            )
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""  # no key: the options do not go together
        given = f"{key}={options[key]}: " if key in options else ""
        raise ConfigError(f"teacher {where}: {given}{first['msg']}{_valid_range(model, key)}") from None


def make(name: str, spec: EnvSpec, device: torch.device | str = "cpu") -> Teacher:
    """Build a teacher and check that it fits the environment.

    Args:
        name: e.g. ``"scripted:noise=0.5"``; see `list_teachers`.
        spec: the environment it will label.
        device: where it computes.

    Raises:
        ConfigError: an unknown family or option, a bad value, or a missing file.
        SpecMismatch: the teacher was made for another environment.
    """
    module, argument, options = _find(name)
    teacher: Teacher = module.from_string(argument, options, spec, torch.device(device))
    teacher.name = name
    teacher.check_env(spec)
    return teacher


def needs(name: str) -> Views:
    """Say what a teacher must see, before there is an environment; reads no weights.

    Raises:
        ConfigError: see `make`.
    """
    module, argument, options = _find(name)
    return module.needs(argument, options) if hasattr(module, "needs") else Views()


def describe(name: str, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment, without its weights where it can do without.

    Args:
        name: see `make`.
        spec: the environment.
        instruction: an instruction of its task, as an example.

    Raises:
        ConfigError: see `make`.
    """
    module, argument, options = _find(name)
    if hasattr(module, "describe"):
        return module.describe(argument, options, spec, instruction)
    return Description({"provides": ", ".join(sorted(make(name, spec).provides))}, [])


def footprint(name: str, spec: EnvSpec, device: torch.device, rows: int) -> Footprint | None:
    """Say what a teacher takes of memory, without its weights.

    Args:
        name: see `make`.
        spec: the environment that it will label.
        device: where it will compute.
        rows: environments whose observations it will be asked about together.

    Returns:
        None for a kind of teacher that is small, or elsewhere: it can be made and looked at.

    Raises:
        ConfigError: see `make`.
    """
    module, argument, options = _find(name)
    return module.footprint(argument, options, spec, device, rows) if hasattr(module, "footprint") else None


def names_teacher(name: str) -> bool:
    """Whether a name is a teacher's, of a family or of a model that ships, and not a path."""
    family = parse(name)[0]
    return family in FAMILIES or family.startswith(zoo.PREFIX)


def list_teachers() -> list[tuple[str, str]]:
    """Return (how to write it, one-line description) of every family, and of every model that ships."""
    shipped = [(zoo.PREFIX + name, f"ships with rpd: a small {family} model") for name, family in zoo.MODELS.items()]
    return [*((family.pattern, family.description) for family in FAMILIES.values()), *shipped]


def _find(name: str) -> tuple[ModuleType, str | None, dict[str, str]]:
    """The module of a teacher's family, its argument and its options."""
    family, argument, options = parse(name)
    if family.startswith(zoo.PREFIX):
        family, argument = zoo.resolve(family)
    if family not in FAMILIES:
        raise unknown_name("teacher", family, FAMILIES)
    return importlib.import_module(FAMILIES[family].module), argument, options


def _valid_range(model: type[Options], key: str) -> str:
    """Say what an option accepts, e.g. ``" (valid: number, minimum 0, maximum 1)"``."""
    schema = model.model_json_schema()["properties"].get(key, {})
    words = [str(schema["type"])] if "type" in schema and "enum" not in schema else []
    for word, label in {
        "minimum": "minimum", "exclusiveMinimum": "above", "maximum": "maximum", "exclusiveMaximum": "below",
    }.items():  # fmt: skip
        if word in schema:
            words.append(f"{label} {schema[word]:g}")
    return f" (valid: {', '.join(words)})" if words else ""
