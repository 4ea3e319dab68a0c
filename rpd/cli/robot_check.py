"""`rpd robot check`: bring a robot into service, in a dialogue at the terminal."""

from __future__ import annotations

import sys

from rpd.cli.options.robot import CheckOptions
from rpd.deploy.commissioning.check import commission
from rpd.envs.errors import RunFault


class Terminal:
    """Standard input and output, see `rpd.deploy.commissioning.console.Console`."""

    def show(self, text: str) -> None:
        """See `Console`."""
        print(text, flush=True)

    def ask(self, question: str) -> str:
        """See `Console`."""
        try:
            typed = input(f"{question} ").strip()
        except EOFError:
            print()
            raise RunFault("the input has ended") from None
        if not sys.stdin.isatty():  # a pipe does not echo
            print(typed, flush=True)
        return typed


def main(options: CheckOptions) -> int:
    """Commission; returns the exit code."""
    print(f"robot file: {commission(options, Terminal())}")
    return 0
