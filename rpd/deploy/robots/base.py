"""What a driver is: five verbs, a description, and what it measures. Joint positions in rad, one arm, one gripper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.errors import RunFault

Array = NDArray[np.floating]


class RobotLost(RunFault):
    """The robot does not answer, or refuses; the message names it. Nothing more is sent."""


@dataclass(frozen=True)
class RobotSpec:
    """What a driver says of its robot before it moves."""

    name: str
    """Of the robot, e.g. ``"ur5e"``."""
    joints: tuple[str, ...]
    """Names of the n joints, from base to flange, each in rad."""
    rates: tuple[float, float]
    """Lowest and highest rate, Hz, at which it takes commands."""
    effort: Literal["N", "A"] | None
    """Unit of `RobotState.effort`; None where it reports none."""
    real: bool
    """Whether something that people could stand beside will move."""
    tracked: tuple[str, ...] = ()
    """Names of the state entries in `RobotState.tracked`."""
    scene: bool = False
    """Whether there is `RobotState.privileged`."""


@dataclass(frozen=True)
class RobotState:
    """What was measured at one time."""

    time: float
    """`time.monotonic` when it was measured."""
    joints: Array
    """[n] rad."""
    velocities: Array
    """[n] rad/s."""
    gripper: float
    """Opening: 0 closed, 1 open."""
    effort: float | None = None
    """The largest external force on the hand, N, or motor current, A; see `RobotSpec.effort`."""
    stopped: str | None = None
    """Why the robot does not move any more by its own decision, None where it does."""
    tracked: dict[str, float] = field(default_factory=dict)
    """State entries that the robot does not measure of itself, by name: from a tracker, or a simulator."""
    privileged: Array | None = None
    """[Scene.dim], from a simulator."""
    success: bool | None = None
    """Whether the task is solved, where that is known."""


class Robot(Protocol):
    """A driver. After `stop`, and after any error, nothing that `command` is given moves the robot."""

    spec: RobotSpec
    resets: ClassVar[bool]
    """Whether it has episodes that begin by themselves."""

    def connect(self) -> None:
        """Open the connection; nothing moves.

        Raises:
            ConfigError: the SDK is missing, or the robot is not there or not ready.
        """

    def read(self) -> RobotState:
        """Return what was measured last, without waiting.

        Raises:
            RobotLost: nothing will come any more.
        """

    def command(self, joints: Array, gripper: float) -> None:
        """Send where the joints [n], rad, and the gripper, in [0, 1], shall be by the next command.

        Raises:
            RobotLost: it was not taken.
        """

    def stop(self) -> None:
        """Bring the robot to rest and hold it there; may be called at any time, and more than once.

        Raises:
            RobotLost: it was not taken.
        """

    def close(self) -> None:
        """Release the connection; may be called more than once, and without `connect`."""
