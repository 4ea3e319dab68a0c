"""Input devices of operators, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rpd.deploy.operators import gamepad, keyboard, spacemouse
from rpd.deploy.operators.base import Operator


class Device(NamedTuple):
    """An input device."""

    connect: Callable[[float], Operator]
    """Open the device, given the speed (see `rpd.deploy.operators.base.Hand`); raises ConfigError if it is missing."""
    help: str
    """Keys, buttons and axes."""


DEVICES = {
    "keyboard": Device(keyboard.Keyboard, keyboard.HELP),
    "gamepad": Device(gamepad.Gamepad, gamepad.HELP),
    "spacemouse": Device(spacemouse.SpaceMouse, spacemouse.HELP),
}
