"""Operator at a 3Dconnexion SpaceMouse, through pyspacemouse."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from typing import Any

import numpy as np

from rpd.deploy.operators.base import Deflection, Hand, OperatorAction
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import Array, RobotState
from rpd.envs.errors import ConfigError, missing_package

HELP = (
    "move the cap to take over; it returns control after it has rested; left button: gripper; right button, held: keep control"
)
DEAD_ZONE = 0.1
"""Deflection, of 1, below which an axis counts as centered: the cap rests a little off its center."""
REST = 0.5
"""Time at rest after which control returns to the policy, s; that of HIL-SERL (Luo et al. 2024)."""
PAUSE = 0.002
"""Time between two looks for a report, s; a SpaceMouse sends one every 8 to 16 ms."""


class SpaceMouse:
    """Takes over as soon as the cap is moved, until it has rested for `REST` seconds.

    Args:
        speed: see `Hand`.
        device: an open `pyspacemouse.SpaceMouseDevice`; None: the first that is connected.

    Raises:
        ConfigError: pyspacemouse or a SpaceMouse is missing.
    """

    def __init__(self, speed: float, device: Any = None) -> None:
        self._device = _open() if device is None else device
        self._hand, self._pressed, self._moved = Hand(speed), False, -REST
        self._failed: str | None = None
        self._closed = threading.Event()
        self._state = self._device.read()
        self._reader = threading.Thread(target=self._read, daemon=True, name="spacemouse")
        self._reader.start()

    def begin(self) -> None:
        """See `Operator`."""
        self._moved = -REST
        self._hand.begin()

    def action(self, state: RobotState, due: bool, last: Array | None) -> OperatorAction | None:
        """See `Operator`."""
        if self._failed is not None:
            raise Stop(f"the SpaceMouse is gone: {self._failed}")
        seen, now = self._state, time.monotonic()
        motion = np.array([seen.x, seen.y, seen.z, seen.roll, seen.pitch, seen.yaw], dtype=np.float64)
        motion[np.abs(motion) < DEAD_ZONE] = 0
        pressed, *others = (bool(button) for button in (*seen.buttons, 0))
        if motion.any() or pressed or any(others):
            self._moved = now
        if pressed and not self._pressed:
            self._hand.toggle(state.gripper)
        self._pressed = pressed
        return self._hand.action(Deflection(motion, now - self._moved < REST))

    def close(self) -> None:
        """See `Operator`."""
        self._closed.set()
        self._reader.join()
        self._device.close()

    def _read(self) -> None:
        """Read every report: one that is left in the queue would be used late."""
        try:
            while not self._closed.wait(PAUSE):
                newest = None
                while (read := self._device.read().t) != newest:
                    newest = read
        except Exception as error:  # the library's own
            self._failed = str(error) or type(error).__name__


def _open() -> Any:
    try:
        import pyspacemouse
    except ImportError:
        raise missing_package("--operator spacemouse", "pyspacemouse", "spacemouse") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the name of the device
            return pyspacemouse.open(axis_convention=pyspacemouse.AxisConvention.ROS)
    except Exception as error:  # also of its HID library
        raise ConfigError(
            f"--operator spacemouse: {' '.join(str(error).split())}: on Linux, install libhidapi-libusb0, and make the device "
            "readable (udev)"
        ) from None
