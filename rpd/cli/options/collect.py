"""Options of `rpd data collect`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from rpd.config.collect import CollectConfig
from rpd.config.parser import parse
from rpd.envs.errors import ConfigError


class CollectOptions(CollectConfig):
    """Record demonstrations of one or more tasks into one folder."""

    out: Path | None = None
    """Folder to write, e.g. demos/x."""
    resume: Path | None = None
    """Folder to continue, with its own settings; a larger --episodes adds episodes."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the simulator."""


def collect_options(args: list[str]) -> CollectOptions:
    """Parse the command line; with --resume, over the settings of the folder.

    Raises:
        ConfigError: one line that names the error.
    """
    options = parse(CollectOptions, args, "rpd data collect")
    if options.resume is not None:
        return _resumed(args, options.resume)
    if not options.tasks:
        raise ConfigError(
            "which task? e.g. 'rpd data collect tabletop/PickCube --policy scripted --out demos/x'; see `rpd list`"
        )
    if len(set(options.tasks)) < len(options.tasks):
        raise ConfigError(f"a task is given twice: {' '.join(options.tasks)}")
    if not options.policy:
        raise ConfigError("which policy acts? add --policy, e.g. --policy scripted or --policy runs/x")
    if options.out is None:
        raise ConfigError("where to? add --out, e.g. --out demos/x")
    return options


def _resumed(args: list[str], folder: Path) -> CollectOptions:
    from rpd.datasets.dataset_dir import INDEX, read_index

    try:
        saved = CollectOptions.model_validate(read_index(folder)["settings"])
    except ValidationError as error:
        raise ConfigError(f"{folder / INDEX}: damaged settings: {error.errors()[0]['msg']}") from None
    options = parse(CollectOptions, args, "rpd data collect", saved)
    for name in {**CollectConfig.model_fields, "out": None}:
        if getattr(options, name) != getattr(saved, name) and name != "episodes":
            option = "the tasks" if name == "tasks" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"--resume {folder} continues with its own settings: leave out {option}")
    if options.episodes < saved.episodes:
        raise ConfigError(f"--episodes {options.episodes}: {folder} was to have {saved.episodes}, and can only grow")
    return options
