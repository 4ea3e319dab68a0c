"""Interface of operators: an action of the policy's own action space, or None while the policy is in control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from rpd.deploy.robots.base import Array, RobotState

DEVICE = "device"
"""Reason of a take-over by a person at an input device."""


class Deflection(NamedTuple):
    """State of an input device."""

    motion: Array
    """[6] translation and rotation in [-1, 1], about the axes of the robot's base: x forward, y left, z up."""
    active: bool
    """Whether the person is in control."""


@dataclass(frozen=True)
class OperatorAction:
    """Action of an operator for one control step."""

    motion: Array
    """[6] motion of the tool in [-1, 1], in the scale of the policy's actions."""
    gripper_open: bool | None = None
    """Whether to open the gripper; None: it keeps doing what it does."""
    reason: str = DEVICE
    """Reason of the take-over."""


class Operator(Protocol):
    """Takes over at any tick, and gives control back."""

    def begin(self) -> None:
        """Start an episode: the policy is in control."""

    def action(self, state: RobotState, due: bool, last: Array | None) -> OperatorAction | None:
        """Return the operator's action, or None if the policy is in control; called at every tick, without waiting.

        Args:
            state: measurements of this tick.
            due: whether a control step of the policy begins with this tick.
            last: [A] last action that the policy was answered with; None before the first, and after a take-over.

        Raises:
            Stop: the operator stops the robot, or the device is lost.
        """

    def close(self) -> None:
        """Release the device; may be called repeatedly."""


class Hand:
    """Person at an input device: scales deflections to actions, and remembers the gripper.

    Args:
        speed: motion at full deflection, as a fraction of the largest action.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._open: bool | None = None

    def begin(self) -> None:
        """Forget the gripper command of the last take-over."""
        self._open = None

    def toggle(self, opening: float) -> None:
        """Open the gripper if it is closed or was closed last, and else close it; `opening` in [0, 1] is measured."""
        self._open = not (self._open if self._open is not None else opening > OPEN)

    def action(self, deflection: Deflection) -> OperatorAction | None:
        """Action for the state of the device; None if the person is not in control."""
        if not deflection.active:
            self._open = None
            return None
        return OperatorAction(self._speed * np.clip(deflection.motion, -1, 1), self._open)


OPEN = 0.5
"""Measured opening in [0, 1] above which the gripper counts as open."""
