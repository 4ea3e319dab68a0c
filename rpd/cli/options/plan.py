"""Options of `rpd doctor --plan`."""

from __future__ import annotations

from pathlib import Path

from rpd.cli.options.train import train_options
from rpd.config.schema import RunConfig


def plan_config(args: list[str]) -> RunConfig:
    """Parse the arguments of `rpd train`, with a settings file or a run in place of a task, into a configuration.

    Raises:
        ConfigError: one line that names the error.
    """
    first = Path(args[0]) if args else Path()
    file = inside if (inside := first / "config.yaml").is_file() else first
    if file.suffix in (".yaml", ".yml"):
        args = ["--config", str(file), *args[1:]]
    return train_options(args).run_config()
