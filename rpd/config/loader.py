"""Build one validated RunConfig from a task's YAML, a user's YAML and the options of a call or a command line.

A settings file holds fields of RunConfig, and optionally ``variants``: settings that apply only under a condition.

    ppo: {gamma: 0.8}
    variants:
      - when: {env.reward: sparse}
        set: {ppo: {gamma: 0.95}}

Later layers override earlier ones: the defaults, the simulator's file, the task's, that of a published method, the user's (each
with its variants), the options.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rpd.config.applicable import check_applicable
from rpd.config.parser import option_names
from rpd.config.renamed import unknown_option
from rpd.config.resume import check_complete
from rpd.config.schema import RunConfig
from rpd.envs import unique_yaml
from rpd.envs.control.limit_config import self_contained
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.registry import task_info
from rpd.envs.simulator_options import IDEAL

Tree = dict[str, Any]
COMMON, RESIDUAL = "common.yaml", "residual.yaml"
METHODS = "methods"
"""Folder of the settings of published methods."""


class Layer(NamedTuple):
    """Settings with their source."""

    source: str
    """For people, e.g. ``configs/tasks/tabletop/PickCube.yaml``."""
    settings: Tree


def configure(task: str, over: Tree | None = None, user: Tree | None = None) -> RunConfig:
    """Build a run's configuration: the task's shipped settings, overridden by the user's settings, overridden by `over`.

    Args:
        task: e.g. ``"tabletop/PickCube"``.
        over: nested options, in the form of a settings file without variants. ``base`` makes a residual run.
        user: contents of the user's settings file.

    Raises:
        ConfigError: an unknown task, an unknown option, a bad value, or see `check_chosen`; one line.
    """
    over = over or {}
    _check(over, task)
    layers = [*settings_layers(task, residual=over.get("base") is not None), Layer("user", user or {})]
    chosen = validate(merge(resolve(layers), over), task)
    config = validate(merge(resolve(layers, chosen), over), task)
    check_chosen(config)
    return config


def with_limits(config: RunConfig) -> RunConfig:
    """The configuration with the content of a robot file in place of its name.

    Raises:
        ConfigError: the file does not exist, or is no robot file.
    """
    env = config.env.model_copy(update={"limits": self_contained(config.env.limits)})
    return config.model_copy(update={"env": env})


def change(config: RunConfig, over: Tree) -> RunConfig:
    """Return a configuration with some options replaced.

    Raises:
        ConfigError: an unknown option, a bad value, or an option without effect; one line.
    """
    _check_keys(over, config.task)
    changed = validate(merge(config.model_dump(), over), config.task)
    check_applicable(changed.algorithm, config.model_dump(), changed.model_dump())
    return changed


def check_chosen(config: RunConfig) -> None:
    """Refuse options that a user sets and the run's algorithm does not read.

    Raises:
        ConfigError: see `check_applicable`.
    """
    layers = settings_layers(config.task, residual=config.base is not None)
    shipped = validate(resolve(layers, config), config.task)
    check_applicable(config.algorithm, shipped.model_dump(), config.model_dump())


def settings_layers(task: str, residual: bool) -> list[Layer]:
    """Shipped settings of a run of a task, lowest priority first.

    Raises:
        ConfigError: an unknown task.
    """
    layers = [Layer(f"task {task}", {"task": task, "env": {"reward": task_info(task).reward}}), *task_settings(task)]
    if residual:
        layers += [Layer("rpd residual", {"algorithm": "ppo", "residual": {}}), *_shipped(RESIDUAL)]
    return layers


def task_settings(task: str) -> list[Layer]:
    """Shipped settings of a task: ``configs/tasks/<simulator>/common.yaml``, then ``configs/tasks/<task>.yaml``."""
    return _shipped(f"tasks/{task.split('/')[0]}/{COMMON}", f"tasks/{task}.yaml")


def method_names() -> list[str]:
    """Names of the published methods in ``configs/methods/``."""
    files = resources.files("rpd.configs").joinpath(METHODS).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def method_settings(name: str) -> Layer:
    """Settings of a published method, ``configs/methods/<name>.yaml``.

    Raises:
        ConfigError: unknown method; names the nearest.
    """
    if name not in (names := method_names()):
        raise unknown_name("method", name, names)
    return _shipped(f"{METHODS}/{name}.yaml")[0]


def _shipped(*names: str) -> list[Layer]:
    """Settings of those of the named files in ``configs/`` that exist."""
    files = [(f"configs/{name}", resources.files("rpd.configs").joinpath(*name.split("/"))) for name in names]
    return [Layer(name, _parse(file.read_text(), name)) for name, file in files if file.is_file()]


def file_settings(path: Path) -> Tree:
    """Read a settings file, the user's or a shipped one.

    Raises:
        ConfigError: the file is missing, not YAML, truncated, or has an unknown key or a bad value; one line.
    """
    return _parse(_complete_text(path), str(path))


def run_settings(path: Path) -> Tree:
    """Read the config.yaml of a run of this version or an older one.

    A run from before there were limits of the arm had none; `distill.decay_steps` was a fraction of the run.

    Raises:
        ConfigError: see `file_settings`.
    """
    return _parse(_complete_text(path), str(path), _of_this_version)


def _of_this_version(settings: Tree) -> Tree:
    """Return the settings of a run with the options of this version."""
    if str(settings.get("task")).startswith("tabletop/"):
        settings = merge({"env": {"limits": IDEAL}}, settings)
    distill, steps = settings.get("distill"), settings.get("total_timesteps")
    if isinstance(distill, dict) and isinstance(fraction := distill.get("decay_fraction"), float) and isinstance(steps, int):
        others = {name: value for name, value in distill.items() if name != "decay_fraction"}
        settings = settings | {"distill": others | {"decay_steps": max(1, round(fraction * steps))}}
    return settings


def _complete_text(path: Path) -> str:
    text = read_text(Path(path))
    check_complete(Path(path), text)
    return text


def read_text(file: Path) -> str:
    """Read a text file. A shipped file, ``configs/...``, is found from any working folder.

    Raises:
        ConfigError: the file is missing or not text; names it.
    """
    shipped = file.parts[:1] == ("configs",) and not file.exists()
    try:
        return (resources.files("rpd.configs").joinpath(*file.parts[1:]) if shipped else file).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file") from None


def merge(base: Tree, over: Tree) -> Tree:
    """Return `base` with the leaves of `over` in place of its own."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def resolve(layers: list[Layer], chosen: RunConfig | None = None) -> Tree:
    """Merge layers, including the variants whose conditions hold; see `with_variants`."""
    merged: Tree = {}
    for layer in with_variants(layers, chosen):
        merged = merge(merged, layer.settings)
    return merged


def with_variants(layers: list[Layer], chosen: RunConfig | None) -> list[Layer]:
    """Make each variant whose conditions hold a layer of its own, above the layer that contains it.

    Args:
        layers: settings, lowest priority first.
        chosen: configuration that the conditions are evaluated on: layers and options, without variants. None: no variant
            applies.
    """
    applied: list[Layer] = []
    for source, settings in layers:
        applied.append(Layer(source, {k: v for k, v in settings.items() if k != "variants"}))
        for variant in settings.get("variants", []):
            if chosen is not None and all(_lookup(chosen, path) == value for path, value in variant["when"].items()):
                condition = ", ".join(f"{path} {value}" for path, value in variant["when"].items())
                applied.append(Layer(f"{source}, variant {condition}", variant["set"]))
    return applied


def validate(settings: Tree, where: str) -> RunConfig:
    """Validate settings as a RunConfig.

    Raises:
        ConfigError: the first invalid value, in one line that starts with `where`.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {place} {first['input']!r}: {first['msg']}") from None


def _parse(text: str, where: str, update: Callable[[Tree], Tree] = lambda settings: settings) -> Tree:
    """Parse and check settings, updated first."""
    tree = unique_yaml.load(text, where) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: has to be a mapping of options, e.g. 'total_timesteps: 100000'")
    tree = update(tree)
    variants = tree.get("variants", [])
    for variant in variants if isinstance(variants, list) else [variants]:
        if not (isinstance(variant, dict) and {k: type(v) for k, v in variant.items()} == {"when": dict, "set": dict}):
            raise ConfigError(f"{where}: a variant is '{{when: {{option: value}}, set: {{...}}}}', not {variant!r}")
        for path in variant["when"]:
            if path not in option_names(RunConfig):
                raise unknown_option(f"option in {where}", path, option_names(RunConfig))
        _check(variant["set"], where)
    _check({k: v for k, v in tree.items() if k != "variants"}, where)
    return tree


def _check(tree: Tree, where: str) -> None:
    """Reject unknown keys, naming the nearest valid ones, and bad values."""
    _check_keys(tree, where)
    validate({"task": "any", **tree}, where)


def _check_keys(tree: Tree, where: str, prefix: str = "") -> None:
    names = option_names(RunConfig)
    for key, value in tree.items():
        path = f"{prefix}{key}"
        inside = [n.removeprefix(f"{path}.") for n in names if n.startswith(f"{path}.")]
        if inside and not isinstance(value, dict):
            raise ConfigError(f"{where}: {path} is a group of options, e.g. '{path}: {{{inside[0]}: ...}}', not {value!r}")
        if inside:
            _check_keys(value, where, f"{path}.")
        elif path not in names:
            raise unknown_option(f"key in {where}", path, names)


def _lookup(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value
