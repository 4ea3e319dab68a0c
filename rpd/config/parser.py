"""Parse command lines into typed values with tyro; every error is a single line."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import tyro
from pydantic import BaseModel

from rpd.config.renamed import unknown_option
from rpd.envs.errors import ConfigError

Options = TypeVar("Options", bound=BaseModel)

FLAG: Any = tyro.constructors.PrimitiveConstructorSpec(
    nargs=0,
    metavar="",
    instance_from_str=lambda words: True,
    is_instance=lambda value: isinstance(value, bool),
    str_from_instance=lambda value: [],
)
"""Annotation of a bool that is an option without a value."""

_PYDANTIC = re.compile(
    r"Error parsing (\S+): \d+ validation errors? for \S+ (\S+) (.+?) \[type=\w+, input_value=(.+?), input_type="
)
_VALUE = re.compile(r"Error parsing (--\S+): .*?'(.*?)'")


def parse(model: type[Options], args: list[str], prog: str, default: Options | None = None) -> Options:
    """Parse `args` into a model; `--help` prints and exits.

    Args:
        model: one option per field; a field that is a model is a group, a `tyro.conf.Positional` is given without a name.
        args: arguments after `prog`.
        prog: command name for the help, e.g. ``"rpd train"``.
        default: default values, in place of the model's own.

    Raises:
        ConfigError: one line, naming the nearest option or the valid values.
    """
    if "-h" in args or "--help" in args:
        return _tyro(model, args, prog, default)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _unwrapped():
            return _tyro(model, args, prog, default)
    except SystemExit:
        raise _explain(errors.getvalue(), model, prog) from None


def option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all options of a model, e.g. ``ppo.learning_rate``, without the positional ones."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += option_names(inner, f"{prefix}{name}.")
        elif tyro.conf.Positional not in info.metadata:
            names.append(prefix + name)
    return names


def _tyro(model: type[Options], args: list[str], prog: str, default: Options | None) -> Options:
    chosen: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(model, args=args, prog=prog, config=(tyro.conf.FlagConversionOff,), **chosen)


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Keep tyro from wrapping its messages at the terminal width."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _explain(panel: str, model: type[BaseModel], prog: str) -> ConfigError:
    """Convert tyro's error panel (a message, a rule, and possibly the option's help) into one line."""
    boxed = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in panel.splitlines()[1:-1]]
    lines = "\n".join(line for line in boxed if line).lstrip("-\n").split("\n")
    rule = next((i for i, line in enumerate(lines) if not line.strip("─-")), len(lines))
    message = " ".join(lines[:rule])
    if message.startswith("Unrecognized options: "):
        given = re.split(", |=", message.removeprefix("Unrecognized options: "))[0]
        if not given.startswith("-"):
            return ConfigError(f"unexpected '{given}': see `{prog} --help`")
        if given.removeprefix("--") in model.model_fields and given.removeprefix("--") not in option_names(model):
            return ConfigError(f"unknown option '{given}': write its value without a name; see `{prog} --help`")
        unknown = unknown_option("option", given, option_names(model))
        return ConfigError(f"unknown option '{given}': see `{prog} --help`") if "valid: " in str(unknown) else unknown
    if match := _PYDANTIC.match(message):
        group, field, reason, value = match.groups()
        option = (field if group == model.__name__ else f"{group}.{field}").replace("_", "-")
        return ConfigError(f"--{option} {value}: {reason}")
    if match := _VALUE.match(message):
        option, value = match.groups()
        kind = next(
            (line.removeprefix(option).strip() for line in lines[rule:] if line.startswith(f"{option} ")), "another value"
        )
        return ConfigError(f"{option} takes {kind}, not '{value}'")
    if message.startswith("Missing from"):
        return ConfigError(f"missing {lines[1]}: {lines[2].removesuffix(' (required)')} See `{prog} --help`.")
    return ConfigError(message)
