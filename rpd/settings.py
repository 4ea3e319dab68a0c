"""From a task's YAML, a user's YAML and a command line to one validated RunConfig.

A settings file holds fields of RunConfig, and optionally ``variants``: what else applies where the run meets a condition.

    ppo: {gamma: 0.8}
    variants:
      - when: {env.reward: sparse}
        set: {ppo: {gamma: 0.95}}

Later layers win: the defaults, the simulator's file and its variants, the task's, the user's file and its variants, the command line.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from envs.errors import ConfigError, unknown_name
from rpd.config import RunConfig

Tree = dict[str, Any]
COMMON = "common.yaml"


def task_settings(task: str) -> list[Tree]:
    """The shipped settings of a task: those of its simulator, ``configs/<simulator>/common.yaml``, then its own."""
    layers = []
    for name in (f"{task.split('/')[0]}/{COMMON}", f"{task}.yaml"):
        file = resources.files("configs").joinpath(*name.split("/"))
        if file.is_file():
            layers.append(_parse(file.read_text(), f"configs/{name}"))
    return layers


def file_settings(path: Path) -> Tree:
    """A user's settings file.

    Raises:
        ConfigError: it is missing, not YAML, or has an unknown key; one line that names it.
    """
    try:
        return _parse(Path(path).read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def merge(base: Tree, over: Tree) -> Tree:
    """`base` with the leaves of `over` in place of its own."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def resolve(layers: list[Tree], chosen: RunConfig) -> Tree:
    """Merge layers, applying the variants whose conditions `chosen` meets.

    Args:
        layers: settings, weakest first.
        chosen: the configuration that decides about conditions: layers and command line, without variants.
    """
    merged: Tree = {}
    for layer in layers:
        merged = merge(merged, {k: v for k, v in layer.items() if k != "variants"})
        for variant in layer.get("variants", []):
            if all(_lookup(chosen, path) == value for path, value in variant["when"].items()):
                merged = merge(merged, variant["set"])
    return merged


def validate(settings: Tree, where: str) -> RunConfig:
    """Turn settings into a RunConfig.

    Raises:
        ConfigError: the first thing that is wrong, in one line that starts with `where`.
    """
    try:
        return RunConfig.model_validate({k: v for k, v in settings.items() if k != "variants"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {place}: {first['msg']} (given: {first['input']!r})") from None


def option_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted name of a configuration, e.g. ``ppo.lr``."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += option_names(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _parse(text: str, where: str) -> Tree:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}: not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: has to be a mapping of options, e.g. 'total_steps: 100000'")
    _check_keys(tree, where)
    for variant in tree.get("variants", []):
        if set(variant) != {"when", "set"}:
            raise ConfigError(f"{where}: a variant has the keys 'when' and 'set', not {', '.join(map(str, variant))}")
        _check_keys(variant["set"], where)
        for path in variant["when"]:
            if path not in option_names():
                raise unknown_name(f"option in {where}", path, option_names())
    return tree


def _check_keys(tree: Tree, where: str, prefix: str = "") -> None:
    names = option_names()
    for key, value in tree.items():
        path = f"{prefix}{key}"
        group = any(n.startswith(path + ".") for n in names)
        if path == "variants" or path in names:
            continue
        if not group:
            raise unknown_name(f"key in {where}", path, names)
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {path} is a group of options, e.g. '{path}: {{{_first(names, path)}: ...}}'")
        _check_keys(value, where, path + ".")


def _first(names: list[str], group: str) -> str:
    return next(n for n in names if n.startswith(group + ".")).removeprefix(group + ".")


def _lookup(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value
