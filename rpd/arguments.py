"""Command lines to typed values through tyro, with every mistake told in one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from envs.errors import ConfigError

T = TypeVar("T")


def parse(what: Callable[..., T], args: list[str], prog: str, default: Any = None) -> T:
    """Parse `args` for a function or a model; `--help` prints and exits.

    Raises:
        ConfigError: one line, with the nearest option or the valid values.
    """
    if "-h" in args or "--help" in args:
        return _tyro(what, args, prog, default)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return _tyro(what, args, prog, default)
    except SystemExit:
        raise ConfigError(f"{prog}: {_one_line(errors.getvalue())}") from None


def _tyro(what: Callable[..., T], args: list[str], prog: str, default: Any) -> T:
    chosen = {} if default is None else {"default": default}
    return tyro.cli(what, args=args, prog=prog, config=(tyro.conf.FlagConversionOff,), **chosen)


def _one_line(panel: str) -> str:
    """The sentence inside tyro's error box: its message and the option it suggests, without the frame."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯─ ") for line in panel.splitlines()[1:]]
    text = " ".join(line for line in lines if line and "help" not in line and "further information" not in line)
    text = text.split("https://")[0].strip()
    message, _, hints = text.partition("Perhaps you meant:")
    options = re.findall(r"--[\w.\-]+", hints)
    return f"{message.strip()}: did you mean {' or '.join(dict.fromkeys(options[:3]))}?" if options else message.strip()
