"""Definition of a tabletop task: data and three pure functions, and helpers shared by the tasks.

Dense rewards are staged like ManiSkill3's (reach, grasp, place) and normalized to [0, 1]; the environment subtracts 1, so that
every step before success has a cost, and ending early is never worse than hovering near the goal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rpd.envs.robots import Robot

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

COLORS = {
    "red": (0.80, 0.15, 0.13),
    "blue": (0.13, 0.35, 0.80),
    "yellow": (0.93, 0.77, 0.12),
    "purple": (0.50, 0.22, 0.65),
    "orange": (0.95, 0.50, 0.10),
}
PLACE_TOLERANCE = 0.025  # ManiSkill's PickCube, m


@dataclass
class Frame:
    """Inputs of rewards and success criteria for N environments; SI units, base frame."""

    tcp: Array
    """[N, 3] tool center point."""
    tcp_speed: Array
    """[N] mean speed over the last control step, m/s."""
    opening: Array
    """[N] finger distance, as a fraction of fully open."""
    grasped: Mask
    """[N] whether both fingers press on the object."""
    object: Array
    """[N, 3] center of the object."""
    object_speed: Array
    """[N] m/s."""
    target: Array
    """[N, 3] target position, see `rpd.envs.privileged_state.ManipulationState`."""
    turn: Array
    """[N] yaw of the object relative to the target, rad."""
    half: float
    """Half the edge of a cube, m."""


@dataclass
class Placement:
    """Initial poses of object and target in K new episodes."""

    object: Array
    """[K, 3]."""
    object_yaw: Array
    """[K] rad."""
    target: Array
    """[K, 3]."""
    target_yaw: Array
    """[K] rad."""


@dataclass(frozen=True)
class Task:
    """A tabletop task.

    Attributes:
        marker: marker of the target: a ``ball``, a ``disc``, a painted ``tee``, a second ``cube`` or a ``bin``.
        phrases: instruction templates, the first is canonical; ``{object}`` and ``{target}`` are colors.
        place: `(u [K, 8] uniform in [0, 1), robot) -> Placement`.
        reward: `Frame -> [N]` dense reward in [0, 1], before success.
        success: `Frame -> [N]`.
        thing: object to move: a ``cube``, a ``tee`` of cubes, or None.
        cube: edge of its cubes, as a fraction of the size that fits the robot's gripper.
        max_steps: control steps before truncation.
    """

    name: str
    marker: str
    phrases: tuple[str, ...]
    place: Callable[[Array, Robot], Placement]
    reward: Callable[[Frame], Array]
    success: Callable[[Frame], Mask]
    thing: Literal["cube", "tee"] | None = "cube"
    cube: float = 1.0
    max_steps: int = 50

    @property
    def has_object(self) -> bool:
        """Whether the task has an object to move."""
        return self.thing is not None

    @property
    def oriented(self) -> bool:
        """Whether the object has to match the target's orientation, see `rpd.envs.specs.EnvSpec.oriented`."""
        return self.thing == "tee"

    def half(self, robot: Robot) -> float:
        """Half the edge of a cube, m."""
        return self.cube * robot.cube_half_size

    @property
    def aerial(self) -> bool:
        """Whether the goal is a point in the air.

        Its position is then part of ``state`` also with images, as in ManiSkill3's PickCube: the distance of a ball of three
        pixels cannot be inferred from an image.
        """
        return self.marker == "ball"


def far(distance: Array) -> Array:
    """1 at distance zero, decreasing over decimeters (ManiSkill3's shaping), for carrying."""
    return 1.0 - np.tanh(5.0 * distance)


def near(distance: Array) -> Array:
    """Half the decrease over decimeters, half over centimeters: grasps depend on the last three centimeters."""
    return 1.0 - 0.5 * (np.tanh(5.0 * distance) + np.tanh(25.0 * distance))


def norm(x: Array) -> Array:
    """Norms [...] of vectors [..., d]."""
    return np.sqrt(np.einsum("...i,...i->...", x, x))


def play_area(robot: Robot) -> tuple[Array, Array]:
    """Corners (x, y) of the area of initial and target positions: center of the work area, at most 20 x 30 cm."""
    low, high = np.array(robot.workspace[0]), np.array(robot.workspace[1])
    half = np.minimum((high - low) / 2, [0.10, 0.15])
    return (low + high) / 2 - half, (low + high) / 2 + half


def on_table(u: Array, robot: Robot) -> Array:
    """Points [K, 3] in the play area, at the height of the center of a cube on the table. u: [K, 2]."""
    low, high = play_area(robot)
    return np.concatenate([low + u * (high - low), np.full((len(u), 1), robot.cube_half_size)], axis=1)


def height(u: Array, robot: Robot) -> Array:
    """Heights [K] between slightly above the table and 20 cm, or the robot's limit."""
    top = min(robot.max_height, 0.20)
    return robot.cube_half_size + (0.3 + 0.7 * u) * (top - robot.cube_half_size)


def yaw(u: Array) -> Array:
    """Yaw [K] within 30 degrees: a cube is symmetric under quarter turns, and 45 degrees is ambiguous."""
    return (u - 0.5) * np.pi / 3
