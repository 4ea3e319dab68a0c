"""Dialogue with the person who commissions a robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

YES = "yes"


class Console(Protocol):
    """A terminal."""

    def show(self, text: str) -> None:
        """Print a line."""

    def ask(self, question: str) -> str:
        """Ask, and return what is typed, without white space around it.

        Raises:
            RunFault: the input has ended.
        """


class StepFailed(Exception):
    """A step cannot be completed; the message gives the reason and the remedy."""


def confirmed(console: Console, question: str) -> bool:
    """Ask for a typed yes; everything else is a no."""
    return console.ask(f"{question} Type {YES}, or anything else for no:") == YES


def confirm_motion(console: Console, motion: str) -> None:
    """Ask for consent to a motion.

    Args:
        console: terminal of the person.
        motion: description of the motion, a sentence.

    Raises:
        StepFailed: not confirmed.
    """
    if not confirmed(console, f"{motion} Is the workspace clear, and the emergency stop at hand?"):
        raise StepFailed("not confirmed: nothing has moved")


def choose(console: Console, question: str, options: Mapping[str, str]) -> str:
    """Ask for one of several words, until one is typed.

    Args:
        console: terminal of the person.
        question: the question.
        options: meaning of each word.
    """
    listed = ", ".join(f"{word} ({meaning})" if meaning else word for word, meaning in options.items())
    while True:
        if (typed := console.ask(f"{question} Type {listed}:")) in options:
            return typed
        console.show(f"'{typed}' is none of {', '.join(options)}")


def number(console: Console, question: str, default: float) -> float:
    """Ask for a number, until one is typed; an empty line is the default."""
    while True:
        typed = console.ask(f"{question} Type a number, or nothing for {default:.1f}:")
        try:
            value = float(typed) if typed else default
        except ValueError:
            value = float("nan")
        if abs(value) < 1e6:  # also no NaN
            return value
        console.show(f"'{typed}' is not a number")
