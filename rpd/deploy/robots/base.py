"""Interface of robot drivers: five methods, a spec, and the measured state. Joint positions in rad, one arm, one gripper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rpd.envs.errors import RunFault

Array = NDArray[np.floating]


class RobotLost(RunFault):
    """The robot does not answer or rejects a command; the message names it. No further commands are sent."""


@dataclass(frozen=True)
class RobotSpec:
    """Description of a robot, known before it moves."""

    name: str
    """Name of the robot, e.g. ``"ur5e"``."""
    joints: tuple[str, ...]
    """Names of the n joints, from base to flange; positions in rad."""
    rates: tuple[float, float]
    """Lowest and highest command rate, Hz."""
    effort: Literal["N", "A"] | None
    """Unit of `RobotState.effort`; None if it is not reported."""
    real: bool
    """Whether a physical robot moves."""
    tracked: tuple[str, ...] = ()
    """Names of the state entries in `RobotState.tracked`."""
    scene: bool = False
    """Whether `RobotState.privileged` is available."""


@dataclass(frozen=True)
class RobotState:
    """Measurements at one time."""

    time: float
    """Time of the measurement, `time.monotonic`: not that of reading it, see `rpd.deploy.robots.freshness`."""
    joints: Array
    """[n] rad."""
    velocities: Array
    """[n] rad/s."""
    gripper: float
    """Gripper opening: 0 closed, 1 open."""
    effort: float | None = None
    """Largest external force on the hand, N, or motor current, A; see `RobotSpec.effort`."""
    stopped: str | None = None
    """Reason why the robot has stopped by itself, or None."""
    tracked: dict[str, float] = field(default_factory=dict)
    """State entries by name that the robot does not measure itself: from an object tracker, or a simulator."""
    privileged: Array | None = None
    """[ManipulationState.dim], from a simulator."""
    success: bool | None = None
    """Whether the task is solved, if known."""

    def numbers(self) -> dict[str, Array]:
        """Measured quantities by name."""
        known = {"joints": self.joints, "velocities": self.velocities, "gripper": np.array([self.gripper])}
        if self.effort is not None:
            known["effort"] = np.array([self.effort])
        if self.privileged is not None:
            known["scene"] = self.privileged
        return known | {name: np.array([value]) for name, value in self.tracked.items()}


class RobotDriver(Protocol):
    """A driver. After `stop`, and after any error, `command` no longer moves the robot.

    A driver whose spec is `real` is made twice: in the process of the control loop, where it only describes itself, and in a
    process of its own, where it is connected, see `rpd.deploy.robots.device`.
    """

    spec: RobotSpec

    @property
    def resets(self) -> bool:
        """Whether the robot starts episodes by itself."""

    def connect(self) -> None:
        """Open the connection; nothing moves.

        Raises:
            ConfigError: the SDK is missing, or the robot is not reachable or not ready.
        """

    def read(self) -> RobotState:
        """Return the latest measurement, without waiting.

        Raises:
            RobotLost: the connection is lost.
        """

    def command(self, joints: Array, gripper: float | None) -> None:
        """Command joint positions [n], rad, and gripper opening in [0, 1] for the next period.

        Without an opening (None) the gripper keeps doing what it does. Must not wait for the gripper, see
        `rpd.deploy.robots.polled.Sent`.

        Raises:
            RobotLost: the command was not accepted.
        """

    def stop(self) -> None:
        """Bring the robot to rest and hold it, by every means it has; may be called at any time and repeatedly.

        Raises:
            RobotLost: no command was accepted.
        """

    def close(self) -> None:
        """Release the connection; may be called repeatedly, and without `connect`. The arm keeps its posture and its grasp."""


@runtime_checkable
class SecondStop(Protocol):
    """A driver with a further means to stop the robot: without its SDK, and without `connect`."""

    def stop_otherwise(self) -> None:
        """Stop the robot when the SDK blocks, refuses, or has crashed.

        Raises:
            RobotLost: the command was not accepted.
        """
