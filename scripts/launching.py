"""Launchers for scripts: their options, and one line for each error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

from rpd.cli.messages import show_messages
from rpd.config.launch import LaunchConfig
from rpd.config.parser import parse
from rpd.envs.errors import ConfigError
from rpd.launch import choose
from rpd.launch.base import Launcher


def launch_options(words: list[str], prog: str) -> LaunchConfig:
    """Parse a command line without the script's own options; exit on an error.

    Args:
        words: the command line.
        prog: the command, for messages.
    """
    show_messages()
    with _one_line(prog):
        return parse(LaunchConfig, words, prog)


@contextlib.contextmanager
def launching(config: LaunchConfig, prog: str) -> Iterator[Launcher]:
    """Open a launcher; exit on an error of the options or of the cluster."""
    with _one_line(prog), contextlib.closing(choose.make(config, torch.cuda.device_count())) as launcher:
        yield launcher


@contextlib.contextmanager
def _one_line(prog: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(2)
