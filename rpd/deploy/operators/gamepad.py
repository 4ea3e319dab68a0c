"""Operator at a gamepad, through SDL's controller interface (pygame): one layout for all common gamepads."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from rpd.deploy.operators.base import Deflection, Hand, OperatorAction
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import Array, RobotState
from rpd.envs.errors import ConfigError, missing_package

HELP = (
    "hold the right shoulder button to take over; left stick: x, y; right stick: z, yaw; cross: roll, pitch; A: gripper; "
    "B: emergency stop"
)
DEAD_ZONE = 0.1
"""Deflection of a stick, of 1, below which it counts as centered."""
FULL = 32767
"""SDL's value of a stick at its end."""


class Gamepad:
    """Takes over while the right shoulder button is held: releasing it, e.g. by dropping the gamepad, returns control.

    Args:
        speed: see `Hand`.

    Raises:
        ConfigError: pygame or a gamepad is missing.
    """

    def __init__(self, speed: float) -> None:
        # Without a window and without SDL's own handlers of Ctrl-C, which stops the robot.
        for name, value in {"VIDEODRIVER": "dummy", "NO_SIGNAL_HANDLERS": "1", "JOYSTICK_ALLOW_BACKGROUND_EVENTS": "1"}.items():
            os.environ.setdefault(f"SDL_{name}", value)
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
            from pygame._sdl2 import controller
        except ImportError:
            raise missing_package("--operator gamepad", "pygame-ce", "gamepad") from None
        pygame.display.init()
        controller.init()
        found = [i for i in range(controller.get_count()) if controller.is_controller(i)]
        if not found:
            raise ConfigError("--operator gamepad: no gamepad is connected (on Linux: /dev/input/event* must be readable)")
        self._pygame: Any = pygame
        self._pad: Any = controller.Controller(found[0])
        self._hand, self._pressed = Hand(speed), False

    def begin(self) -> None:
        """See `Operator`."""
        self._hand.begin()

    def action(self, state: RobotState, due: bool, last: Array | None) -> OperatorAction | None:
        """See `Operator`."""
        game, pad = self._pygame, self._pad
        game.event.get()  # updates the state of the gamepad
        if not pad.attached():
            raise Stop("the gamepad is gone")
        if pad.get_button(game.CONTROLLER_BUTTON_B):
            raise Stop("emergency stop: button B of the gamepad")
        active, pressed = pad.get_button(game.CONTROLLER_BUTTON_RIGHTSHOULDER), pad.get_button(game.CONTROLLER_BUTTON_A)
        if active and pressed and not self._pressed:
            self._hand.toggle(state.gripper)
        self._pressed = pressed
        return self._hand.action(Deflection(self._motion(), active))

    def close(self) -> None:
        """See `Operator`."""
        self._pad.quit()

    def _motion(self) -> Array:
        game = self._pygame
        sticks = [
            -self._stick(game.CONTROLLER_AXIS_LEFTY), -self._stick(game.CONTROLLER_AXIS_LEFTX),
            -self._stick(game.CONTROLLER_AXIS_RIGHTY), -self._stick(game.CONTROLLER_AXIS_RIGHTX),
        ]  # fmt: skip
        roll = self._button("DPAD_RIGHT") - self._button("DPAD_LEFT")
        pitch = self._button("DPAD_UP") - self._button("DPAD_DOWN")
        return np.array([*sticks[:3], roll, pitch, sticks[3]], dtype=np.float64)

    def _stick(self, axis: int) -> float:
        """Deflection in [-1, 1], which rises from 0 at the edge of the dead zone."""
        value = self._pad.get_axis(axis) / FULL
        return float(np.sign(value) * max(0.0, abs(value) - DEAD_ZONE) / (1 - DEAD_ZONE))

    def _button(self, name: str) -> int:
        return int(self._pad.get_button(getattr(self._pygame, f"CONTROLLER_BUTTON_{name}")))
