"""What a tabletop task is: data and three pure functions, and what the tasks have in common.

Dense rewards are staged like ManiSkill3's (reach, grasp, place) and normalised to [0, 1]; the environment subtracts 1, so
that a step costs something until the task is solved and ending early is never worse than hovering near the goal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from envs.tabletop.robots import Robot

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
    """What rewards are computed from, N environments, SI units, base frame."""

    tcp: Array
    """[N, 3] tool centre point."""
    tcp_speed: Array
    """[N] over the last control step, m/s."""
    opening: Array
    """[N] finger distance as a fraction of fully open."""
    grasped: Mask
    """[N] both fingers press on the object."""
    object: Array
    """[N, 3] centre of the object."""
    object_speed: Array
    """[N] m/s."""
    target: Array
    """[N, 3] see envs.privileged.Scene."""
    turn: Array
    """[N] how far the object is turned against the target about the vertical, rad."""
    half: float
    """Half edge of a cube, m."""


@dataclass
class Placement:
    """Where the things of K new episodes start."""

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
    """One task.

    Attributes:
        marker: what stands at the target: a ``ball``, a ``disc``, a painted ``tee``, a second ``cube`` or a ``bin``.
        phrases: instruction templates, the first being the canonical one; ``{object}`` and ``{target}`` are colours.
        place: `(u [K, 8] uniform in [0, 1), robot) -> Placement`.
        reward: `Frame -> [N]` dense reward in [0, 1], before success.
        success: `Frame -> [N]`.
        thing: what there is to move: a ``cube``, a ``tee`` of cubes, or nothing.
        cube: edge of its cubes, as a fraction of the one that suits the robot's gripper.
        max_steps: control steps before time-out.
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
        """Whether there is an object to move."""
        return self.thing is not None

    @property
    def oriented(self) -> bool:
        """Whether the object has to be turned as the target is, see `envs.specs.EnvSpec.oriented`."""
        return self.thing == "tee"

    def half(self, robot: Robot) -> float:
        """Half edge of a cube, m."""
        return self.cube * robot.cube_half_size

    @property
    def aerial(self) -> bool:
        """Whether the goal is a point in the air.

        It is then given in numbers also beside images, as in ManiSkill3's PickCube: how far away a ball of three pixels
        floats, no camera tells.
        """
        return self.marker == "ball"


def far(distance: Array) -> Array:
    """1 at distance zero, falling over decimetres: ManiSkill3's shaping. It says where to carry things."""
    return 1.0 - np.tanh(5.0 * distance)


def near(distance: Array) -> Array:
    """Half over decimetres, half over centimetres: the last three centimetres decide about a grasp."""
    return 1.0 - 0.5 * (np.tanh(5.0 * distance) + np.tanh(25.0 * distance))


def norm(x: Array) -> Array:
    """Lengths [...] of vectors [..., d]."""
    return np.sqrt(np.einsum("...i,...i->...", x, x))


def play_area(robot: Robot) -> tuple[Array, Array]:
    """Corners (x, y) of where things start and end: the middle of the work area, 20 x 30 cm at most."""
    low, high = np.array(robot.workspace[0]), np.array(robot.workspace[1])
    half = np.minimum((high - low) / 2, [0.10, 0.15])
    return (low + high) / 2 - half, (low + high) / 2 + half


def on_table(u: Array, robot: Robot) -> Array:
    """Points [K, 3] in the play area, at the height of a cube that lies there. u: [K, 2]."""
    low, high = play_area(robot)
    return np.concatenate([low + u * (high - low), np.full((len(u), 1), robot.cube_half_size)], axis=1)


def height(u: Array, robot: Robot) -> Array:
    """Heights [K] between a little above the table and 20 cm, or what the robot reaches."""
    top = min(robot.max_height, 0.20)
    return robot.cube_half_size + (0.3 + 0.7 * u) * (top - robot.cube_half_size)


def yaw(u: Array) -> Array:
    """Up to 30 degrees either way: a quarter turn would be no turn at all, and 45 degrees could be undone either way."""
    return (u - 0.5) * np.pi / 3
