"""Options of `rpd train` and `rpd residual`: a run's configuration, on top of the settings of its task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from rpd.cli.options.applicable import without
from rpd.config.applicable import inapplicable
from rpd.config.loader import (
    Layer,
    Tree,
    check_chosen,
    file_settings,
    method_settings,
    resolve,
    run_settings,
    settings_layers,
    with_variants,
)
from rpd.config.parser import FLAG, parse
from rpd.config.resume import FILE
from rpd.config.schema import RunConfig
from rpd.config.sources import chosen_values
from rpd.core.user_code import record_imports
from rpd.envs.errors import ConfigError
from rpd.students.config import ResidualConfig


class TrainOptions(RunConfig):
    """Train a student: with a teacher and a reward (rpd), a reward (ppo), a teacher (dagger), or demonstrations (bc)."""

    task: tyro.conf.Positional[str] = ""
    """Task, e.g. tabletop/PickCube; see `rpd list`. Not needed with --resume, or if --config sets it."""
    name: str | None = None
    """Name of the run's folder; default: made from task, algorithm, seed and time."""
    runs_dir: Path = Path("runs")
    """Folder of the runs."""
    config: Path | None = None
    """YAML of default options, e.g. a run's config.yaml; options on the command line override it."""
    method: str | None = None
    """Published method: settings of its divergence, gate and schedule, configs/methods/METHOD.yaml; see `rpd list methods`."""
    results: str | None = None
    """Also copy the complete run (report, metrics, policy, videos) to RESULTS/NAME, e.g. s3://bucket/results; with --resume,
    too. See docs/clusters.md."""
    resume: Path | None = None
    """Run folder to resume from its latest valid checkpoint, with its own configuration. Some options may change: the length (a
    complete run is trained longer), evaluations, checkpoints, device, ppo.*, ..."""
    show_config: Annotated[bool, FLAG, tyro.conf.arg(help_behavior_hint="")] = False
    """Print each value that is not a default, with the settings file or option that sets it, and exit."""

    def run_config(self) -> RunConfig:
        """The options without those of the command line alone."""
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))


class ResidualOptions(TrainOptions):
    """Train a student that corrects a frozen base, with a reward (ppo), or also with a teacher (rpd, dagger)."""

    base: tyro.conf.Positional[str] = ""
    """Frozen policy to correct: policy reference to a trained policy or a teacher, e.g. runs/x or zoo/tabletop."""
    algorithm: Literal["rpd", "ppo", "dagger"] = "ppo"
    """rpd: reward and teacher; ppo: reward only; dagger: teacher only, on the student's own states."""
    demos: Annotated[tuple[Path, ...], tyro.conf.Suppress] = ()
    residual: ResidualConfig = Field(default_factory=ResidualConfig)


def train_options(args: list[str]) -> TrainOptions:
    """Parse the command line of `rpd train`, see `options_of`."""
    return options_of(TrainOptions, args, "rpd train")


def residual_options(args: list[str]) -> TrainOptions:
    """Parse the command line of `rpd residual`, see `options_of`."""
    options = options_of(ResidualOptions, args, "rpd residual")
    if options.resume is None and not options.base:
        raise ConfigError("which base? e.g. 'rpd residual runs/base tabletop/PickCube --robot xarm6'")
    return options


def options_of(model: type[TrainOptions], args: list[str], prog: str) -> TrainOptions:
    """Parse a command line, on top of the settings files that apply to it.

    The first parse determines the files, the second the variants in them, the third uses all of them as defaults.

    Raises:
        ConfigError: one line that names the error.
    """
    asked = [a for a in args if a not in ("-h", "--help")]  # help waits until it can show the task's own defaults
    options = parse(model, asked, prog)
    if options.resume is not None:
        return _resumed(options.resume, args, asked, prog)
    user = file_settings(options.config) if options.config else {}
    if options.config:
        record_imports(options.config.parent)
    task = options.task or user.get("task")
    if task is None:
        if asked != args:
            return parse(model, args, prog)
        raise ConfigError("which task? e.g. 'rpd train tabletop/PickCube --teacher scripted:noisy'; see `rpd list`")
    shipped = settings_layers(task, residual=issubclass(model, ResidualOptions))
    method = [] if options.method is None else [method_settings(options.method)]
    layers = [*shipped, *method, Layer(str(options.config), user)]
    chosen = parse(model, asked, prog, model.model_validate(resolve(layers)))
    layers = with_variants(layers, chosen)
    options = parse(model, asked, prog, model.model_validate(resolve(layers)))
    if asked != args:
        return _help(model, options, resolve(layers), prog)
    check_chosen(options.run_config())
    if options.method is not None and options.algorithm in ("ppo", "bc"):
        raise ConfigError(f"method {options.method} has a teacher, algorithm {options.algorithm} has none: use rpd or dagger")
    if options.show_config:
        _show_config(options.run_config(), layers)
    return options


def _resumed(run_dir: Path, args: list[str], asked: list[str], prog: str) -> TrainOptions:
    """Parse a command line with ``--resume``, on top of the configuration of the run.

    Raises:
        ConfigError: the run cannot be read, or an option does not apply to a resumed run.
    """
    file = run_dir / FILE
    own = run_settings(file) if file.is_file() else {}  # what is no run is explained where it is opened
    options = parse(TrainOptions, asked, prog, TrainOptions.model_validate(own))
    if asked != args:
        return _help(TrainOptions, options, own, prog) if own else parse(TrainOptions, args, prog)
    new = TrainOptions()
    if other := [name for name in ("name", "runs_dir", "config", "method") if getattr(options, name) != getattr(new, name)]:
        raise ConfigError(f"--resume continues a run in its folder, with its own configuration: leave out {', '.join(other)}")
    if options.show_config and own:
        _show_config(options.run_config(), [Layer(str(file), own)])
    return options


def _help(model: type[TrainOptions], options: TrainOptions, defaults: Tree, prog: str) -> TrainOptions:
    """Print the options that apply to a run, with its defaults, and exit.

    Raises:
        SystemExit: always, with code 0.
    """
    config = options.run_config()
    note = (
        f"Only options that apply to {config.task} with algorithm {config.algorithm}, student.type {config.student.type} and "
    )
    note += f"env.obs_mode {config.env.obs_mode} are listed; `{prog} --help` lists all."
    shown = without(model, inapplicable(config), note)
    return parse(shown, ["--help"], prog, shown.model_validate(defaults))


def _show_config(config: RunConfig, layers: list[Layer]) -> None:
    """Print the values that are not defaults, with their sources, and exit.

    Raises:
        SystemExit: always, with code 0.
    """
    rows = [(row.name, str(row.value), row.source) for row in chosen_values(config, layers)]
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    print(f"{config.task}: values that are not defaults, and their sources")
    for name, value, source in rows:
        print(f"  {name:{widths[0]}}  {value:{widths[1]}}  {source}")
    raise SystemExit(0)
