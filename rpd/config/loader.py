"""From a task's YAML, a user's YAML and a command line to one validated RunConfig.

A settings file holds fields of RunConfig, and optionally ``variants``: what else applies where the run meets a condition.

    ppo: {gamma: 0.8}
    variants:
      - when: {env.reward: sparse}
        set: {ppo: {gamma: 0.95}}

Later layers win: the defaults, the simulator's file, the task's, the user's (each with its variants), the command line.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
import yaml
from pydantic import Field, ValidationError

from envs.errors import ConfigError, unknown_name
from envs.registry import task_info
from rpd.arguments import option_names, parse
from rpd.config import RunConfig
from students.config import ResidualConfig

Tree = dict[str, Any]
OptionsT = TypeVar("OptionsT", bound="TrainOptions")
COMMON, RESIDUAL = "common.yaml", "residual.yaml"


class TrainOptions(RunConfig):
    """Train a student: from a teacher and a reward (rpd), the reward (ppo), the teacher (dagger), or demonstrations (bc)."""

    task: tyro.conf.Positional[str] = ""
    """Task, e.g. tabletop/PickCube; see `rpd list`. Not needed with --resume, or where --config names it."""
    name: str | None = None
    """Name of the run's folder; default: made from task, mode, seed and time."""
    runs_dir: Path = Path("runs")
    """Where run folders are made."""
    config: Path | None = None
    """YAML of options, e.g. a run's config.yaml, used as defaults: options on the command line win."""
    resume: Path | None = None
    """Run folder to continue from its newest sound checkpoint, with its own configuration."""

    def run_config(self) -> RunConfig:
        """What the run itself needs to know."""
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))


class ResidualOptions(TrainOptions):
    """Train a student that corrects a frozen base, from the reward (ppo), or beside it from a teacher (rpd, dagger)."""

    base: tyro.conf.Positional[str] = ""
    """Frozen policy to correct: a run, a checkpoint, a policy folder, or teacher:NAME, e.g. teacher:zoo/tabletop."""
    mode: Literal["rpd", "ppo", "dagger"] = "ppo"
    """rpd: reward and teacher; ppo: reward only; dagger: teacher only, on the student's own states."""
    demos: Annotated[tuple[Path, ...], tyro.conf.Suppress] = ()
    residual: ResidualConfig = Field(default_factory=ResidualConfig)


def train_options(args: list[str]) -> TrainOptions:
    """Read the command line of `rpd train`, see `_options`."""
    return _options(TrainOptions, args, "rpd train")


def residual_options(args: list[str]) -> ResidualOptions:
    """Read the command line of `rpd residual`, see `_options`."""
    options = _options(ResidualOptions, args, "rpd residual")
    if options.resume is None and not options.base:
        raise ConfigError("which base? e.g. 'rpd residual runs/base tabletop/PickCube --robot xarm6'")
    return options


def _options(model: type[OptionsT], args: list[str], prog: str) -> OptionsT:
    """Read a command line, over the settings files that apply to it.

    The first parse says which files, the second which of their variants, the third has all of them as defaults.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    asked = [a for a in args if a not in ("-h", "--help")]  # help waits until it can show the task's own defaults
    options = parse(model, asked, prog)
    if options.resume is not None:
        other = [name for name, value in options if name != "resume" and value != getattr(model(), name)]
        if other:
            raise ConfigError(f"--resume continues with the run's own configuration: leave out {', '.join(other)}")
        return options
    user = file_settings(options.config) if options.config else {}
    task = options.task or user.get("task")
    if task is None:
        if asked != args:
            return parse(model, args, prog)
        raise ConfigError("which task? e.g. 'rpd train tabletop/PickCube --teacher scripted:noisy'; see `rpd list`")
    shipped = task_settings(task) + (_shipped(RESIDUAL) if issubclass(model, ResidualOptions) else [])
    layers = [{"task": task, "env": {"reward": task_info(task).reward}}, *shipped, user]
    chosen = parse(model, asked, prog, model.model_validate(resolve(layers)))
    return parse(model, args, prog, model.model_validate(resolve(layers, chosen)))


def task_settings(task: str) -> list[Tree]:
    """The shipped settings of a task: those of its simulator, ``configs/<simulator>/common.yaml``, then its own."""
    return _shipped(f"{task.split('/')[0]}/{COMMON}", f"{task}.yaml")


def _shipped(*names: str) -> list[Tree]:
    """Those of the files in ``configs/`` that exist."""
    files = [(name, resources.files("configs").joinpath(*name.split("/"))) for name in names]
    return [_parse(file.read_text(), f"configs/{name}") for name, file in files if file.is_file()]


def file_settings(path: Path) -> Tree:
    """A settings file: one of a user's, or one that ships.

    Raises:
        ConfigError: it is missing, not YAML, or has an unknown key or a bad value; one line that names it.
    """
    return _parse(read_text(Path(path)), str(path))


def read_text(file: Path) -> str:
    """What a file says. One that ships, ``configs/...``, is found from any folder.

    Raises:
        ConfigError: there is no such file, or it is not text; names it.
    """
    shipped = file.parts[:1] == ("configs",) and not file.exists()
    try:
        return (resources.files("configs").joinpath(*file.parts[1:]) if shipped else file).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file") from None


def merge(base: Tree, over: Tree) -> Tree:
    """`base` with the leaves of `over` in place of its own."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def resolve(layers: list[Tree], chosen: RunConfig | None = None) -> Tree:
    """Merge layers, with the variants whose conditions are met.

    Args:
        layers: settings, weakest first.
        chosen: the configuration that decides about conditions: layers and command line, without variants. None leaves
            all variants out.
    """
    merged: Tree = {}
    for layer in layers:
        merged = merge(merged, {k: v for k, v in layer.items() if k != "variants"})
        for variant in layer.get("variants", []):
            if chosen is not None and all(_lookup(chosen, path) == value for path, value in variant["when"].items()):
                merged = merge(merged, variant["set"])
    return merged


def validate(settings: Tree, where: str) -> RunConfig:
    """Turn settings into a RunConfig.

    Raises:
        ConfigError: the first thing that is wrong, in one line that starts with `where`.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {place} {first['input']!r}: {first['msg']}") from None


def _parse(text: str, where: str) -> Tree:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}: not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: has to be a mapping of options, e.g. 'total_steps: 100000'")
    variants = tree.get("variants", [])
    for variant in variants if isinstance(variants, list) else [variants]:
        if not (isinstance(variant, dict) and {k: type(v) for k, v in variant.items()} == {"when": dict, "set": dict}):
            raise ConfigError(f"{where}: a variant is '{{when: {{option: value}}, set: {{...}}}}', not {variant!r}")
        for path in variant["when"]:
            if path not in option_names(RunConfig):
                raise unknown_name(f"option in {where}", path, option_names(RunConfig))
        _check(variant["set"], where)
    _check({k: v for k, v in tree.items() if k != "variants"}, where)
    return tree


def _check(tree: Tree, where: str) -> None:
    """Refuse unknown keys, with the nearest that exist, and bad values."""
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
            raise unknown_name(f"key in {where}", path, names)


def _lookup(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value
