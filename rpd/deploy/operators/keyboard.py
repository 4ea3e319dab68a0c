"""Operator at the keyboard of the terminal: works over SSH, and needs neither a display server nor rights to input devices."""

from __future__ import annotations

import sys
import time

import numpy as np

from rpd.deploy.operators.base import Deflection, Hand, OperatorAction
from rpd.deploy.robots.base import Array, RobotState
from rpd.envs.errors import ConfigError

DIRECTIONS = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
    "j": (3, -1), "l": (3, 1), "k": (4, -1), "i": (4, 1), "q": (5, 1), "e": (5, -1),
}  # fmt: skip
"""Dimension of the action and sign of each key that moves the arm."""
GRIPPER, SWITCH = "g", "\r\n"
"""Keys that open or close the gripper, and that take over without a motion or return control to the policy."""
HELP = "w s a d r f: forward, back, left, right, up, down; j l i k q e: rotate; g: gripper; Enter: take over, give back"
HOLD = 0.15
"""Time for which a key counts as held after its last character, s: a terminal repeats it, and does not report its release."""


class Keyboard:
    """Takes over with the first key that moves something, until Enter is pressed.

    Every key without a meaning here stays an emergency stop, see `rpd.deploy.emergency.Emergency`, which reads the terminal.

    Args:
        speed: see `Hand`.

    Raises:
        ConfigError: standard input is not a terminal.
    """

    def __init__(self, speed: float) -> None:
        if not sys.stdin.isatty():
            raise ConfigError(
                "--operator keyboard reads keys at a terminal, and standard input is none: use gamepad or spacemouse"
            )
        self._hand, self._active, self._toggles = Hand(speed), False, 0
        self._held: dict[str, float] = {}  # time until which each key counts as held

    def press(self, typed: str) -> str:
        """Take typed characters; returns those without a meaning."""
        until = time.monotonic() + HOLD
        for key in typed:
            if key in DIRECTIONS:
                self._held[key], self._active = until, True
            elif key == GRIPPER:
                self._toggles, self._active = self._toggles + 1, True
            elif key in SWITCH:
                self._active, self._toggles = not self._active, 0
                self._held.clear()
        return "".join(key for key in typed if key not in (*DIRECTIONS, GRIPPER, *SWITCH))

    def begin(self) -> None:
        """See `Operator`."""
        self._active, self._toggles = False, 0
        self._held.clear()
        self._hand.begin()

    def action(self, state: RobotState, due: bool, last: Array | None) -> OperatorAction | None:
        """See `Operator`."""
        for _ in range(self._toggles):
            self._hand.toggle(state.gripper)
        self._toggles = 0
        motion, now = np.zeros(6), time.monotonic()
        for key, until in self._held.items():
            if now < until:
                dimension, sign = DIRECTIONS[key]
                motion[dimension] += sign
        return self._hand.action(Deflection(motion, self._active))

    def close(self) -> None:
        """See `Operator`."""
