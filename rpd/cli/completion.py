"""`rpd --print-completion bash`: a script that completes verbs, options and their choices at the shell's prompt."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Annotated, Any, Union

import tyro

from rpd.envs.errors import ConfigError

SHELLS = ("bash",)


def script(shell: str) -> str:
    """Generate the completion script of a shell.

    Args:
        shell: one of `SHELLS`.

    Raises:
        ConfigError: another shell.
    """
    if shell not in SHELLS:
        raise ConfigError(f"--print-completion takes {' or '.join(SHELLS)}, not '{shell}'")
    config = (tyro.conf.FlagConversionOff, tyro.conf.OmitSubcommandPrefixes)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(_choice(verbs()), args=["--tyro-print-completion", shell], prog="rpd", config=config)
    lines = printed.getvalue().splitlines(keepends=True)
    # a line break in a help text would be a completion of its own
    return "".join(line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC") else line for line in lines)


def verbs() -> dict[str, Any]:
    """Options class of each verb, or a mapping of them by subcommand."""
    from rpd.cli.convert import ConvertOptions
    from rpd.cli.doctor import DoctorOptions
    from rpd.cli.options.bench import BenchOptions
    from rpd.cli.options.collect import CollectOptions
    from rpd.cli.options.data import DataOptions
    from rpd.cli.options.eval import EvalOptions
    from rpd.cli.options.export import ExportOptions
    from rpd.cli.options.finetune import FinetuneOptions
    from rpd.cli.options.generalist import GeneralistOptions
    from rpd.cli.options.listing import ListOptions
    from rpd.cli.options.log import LogOptions
    from rpd.cli.options.report import ReportOptions
    from rpd.cli.options.robot import CheckOptions, ContractOptions
    from rpd.cli.options.sweep import SweepOptions
    from rpd.cli.options.train import ResidualOptions, TrainOptions
    from rpd.cli.options.tune import TuneOptions
    from rpd.cli.teacher import ShowOptions
    from rpd.config.deploy import DeployConfig
    from rpd.config.serve import ServeConfig

    return {
        "train": TrainOptions,
        "residual": ResidualOptions,
        "sweep": SweepOptions,
        "tune": TuneOptions,
        "generalist": GeneralistOptions,
        "eval": EvalOptions,
        "data": {"collect": CollectOptions, "show": DataOptions, "export": DataOptions},
        "serve": ServeConfig,
        "deploy": DeployConfig,
        "robot": {"check": CheckOptions, "contract": ContractOptions},
        "log": LogOptions,
        "list": ListOptions,
        "teacher": {"show": ShowOptions, "finetune": FinetuneOptions, "convert": ConvertOptions},
        "export": ExportOptions,
        "report": ReportOptions,
        "bench": BenchOptions,
        "doctor": DoctorOptions,
    }


def _choice(options: Mapping[str, Any]) -> Any:
    """Union type of subcommands, nested where a mapping is."""
    return Union[  # noqa: UP007  the members are known at run time only
        tuple(
            Annotated[_choice(inner) if isinstance(inner, Mapping) else inner, tyro.conf.subcommand(name, prefix_name=False)]
            for name, inner in options.items()
        )
    ]
