"""Options of commands whose runs have a number of gradient steps: the run's folder, its copy, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rpd.config.parser import parse
from rpd.config.resume import FILE, check_complete
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError


class RunFolderOptions(BaseModel):
    """Folder of a run, and of its copy."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    """Name of the run's folder; default: the time."""
    runs_dir: Path = Path("runs")
    """Folder of the runs."""
    results: str | None = None
    """Also copy the complete run to RESULTS/NAME, e.g. s3://bucket/results; with --resume, too. See docs/clusters.md."""
    resume: Path | None = None
    """Run folder to resume, with its own configuration. Some options may change: the length, evaluations, checkpoints,
    device, ..."""


OptionsT = TypeVar("OptionsT", bound=RunFolderOptions)


def run_options(model: type[OptionsT], args: list[str], prog: str) -> OptionsT:
    """Parse a command line; with ``--resume``, on top of the run's own configuration.

    Args:
        model: options of the command: its configuration, and `RunFolderOptions`.
        args: arguments after `prog`.
        prog: name of the command.

    Raises:
        ConfigError: one line; an option that does not apply to a resumed run.
    """
    options = parse(model, args, prog)
    if options.resume is None or not (own := _own_settings(options.resume, model)):
        return options  # what is no run is explained where it is opened
    new = model()
    if other := [name for name in ("name", "runs_dir") if getattr(options, name) != getattr(new, name)]:
        raise ConfigError(f"--resume continues a run in its folder, with its own configuration: leave out {', '.join(other)}")
    return parse(model, args, prog, model.model_validate(own))


def _own_settings(run_dir: Path, model: type[BaseModel]) -> dict[str, object]:
    """Configuration of a run; empty if the folder has none of this command.

    Raises:
        ConfigError: it is cut off or not valid YAML.
    """
    file = run_dir / FILE
    try:
        text = file.read_text()
        check_complete(file, text)
        own = unique_yaml.load(text, str(file))
        model.model_validate(own)
    except (OSError, UnicodeDecodeError, ValidationError):
        return {}
    return dict(own)
