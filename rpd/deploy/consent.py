"""Consent of a person at the terminal, before a real robot moves."""

from __future__ import annotations

import sys

from rpd.envs.errors import ConfigError


def require_terminal(robot: str) -> None:
    """Raise if standard input is not a terminal: a pipe cannot watch a robot.

    Raises:
        ConfigError: it is not.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"robot {robot} is about to move: that is confirmed at a terminal, or not at all (see --dry-run)")


def confirm_motion(robot: str) -> None:
    """Ask a person at the terminal for confirmation: the robot's name, typed.

    Raises:
        ConfigError: not confirmed.
    """
    require_terminal(robot)
    typed = input(f"The robot will move. Is its workspace clear, and the emergency stop at hand? Type {robot} to begin: ")
    if typed.strip() != robot:
        raise ConfigError(f"not confirmed: '{typed.strip()}' is not {robot}")
