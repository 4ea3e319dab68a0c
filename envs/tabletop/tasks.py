"""The six tabletop tasks: where things start, what is asked, what is rewarded, what counts as success.

Each task is data plus three pure functions of batched numpy arrays. Dense rewards are staged like ManiSkill3's
(reach, grasp, place) and normalised to [0, 1]; the environment subtracts 1, so that a step costs something until
the task is solved and ending early is never worse than hovering near the goal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
BIN_HALF_IN_CUBES = 3.5  # half of the bin's inner edge, in half edges of the cube
GOAL_RADIUS_IN_CUBES = 1.75  # of the disc that PushCube and PullCube aim at, in half edges of the cube
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
    """[N, 3] see envs.specs.Scene."""
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
        marker: what stands at the target: a ``ball``, a ``disc``, a second ``cube`` or a ``bin``.
        phrases: instruction templates, the first being the canonical one; ``{object}`` and ``{target}`` are colours.
        place: `(u [K, 8] uniform in [0, 1), robot) -> Placement`.
        reward: `Frame -> [N]` dense reward in [0, 1], before success.
        success: `Frame -> [N]`.
        has_object: whether there is an object to move.
        max_steps: control steps before time-out.
    """

    name: str
    marker: str
    phrases: tuple[str, ...]
    place: Callable[[Array, Robot], Placement]
    reward: Callable[[Frame], Array]
    success: Callable[[Frame], Mask]
    has_object: bool = True
    max_steps: int = 50

    @property
    def aerial(self) -> bool:
        """Whether the goal is a point in the air.

        It is then given in numbers also beside images, as in ManiSkill3's PickCube: how far away a ball of three pixels
        floats, no camera tells.
        """
        return self.marker == "ball"


def _far(distance: Array) -> Array:
    """1 at distance zero, falling over decimetres: ManiSkill3's shaping. It says where to carry things."""
    return 1.0 - np.tanh(5.0 * distance)


def _near(distance: Array) -> Array:
    """Half over decimetres, half over centimetres: the last three centimetres decide about a grasp."""
    return 1.0 - 0.5 * (np.tanh(5.0 * distance) + np.tanh(25.0 * distance))


def _norm(x: Array) -> Array:
    return np.sqrt(np.einsum("...i,...i->...", x, x))


# Placements -------------------------------------------------------------------------------------------------------


def play_area(robot: Robot) -> tuple[Array, Array]:
    """Corners (x, y) of where things start and end: the middle of the work area, 20 x 30 cm at most."""
    low, high = np.array(robot.workspace[0]), np.array(robot.workspace[1])
    half = np.minimum((high - low) / 2, [0.10, 0.15])
    return (low + high) / 2 - half, (low + high) / 2 + half


def _on_table(u: Array, robot: Robot) -> Array:
    """Points [K, 3] in the play area, at the height of a cube that lies there. u: [K, 2]."""
    low, high = play_area(robot)
    return np.concatenate([low + u * (high - low), np.full((len(u), 1), robot.cube_half_size)], axis=1)


def _height(u: Array, robot: Robot) -> Array:
    """Heights [K] between a little above the table and 20 cm, or what the robot reaches."""
    top = min(robot.max_height, 0.20)
    return robot.cube_half_size + (0.3 + 0.7 * u) * (top - robot.cube_half_size)


def _yaw(u: Array) -> Array:
    """Up to 30 degrees either way: a quarter turn would be no turn at all, and 45 degrees could be undone either way."""
    return (u - 0.5) * np.pi / 3


def _place_reach(u: Array, robot: Robot) -> Placement:
    target = _on_table(u[:, :2], robot)
    target[:, 2] = _height(u[:, 2], robot)
    return Placement(target.copy(), _yaw(u[:, 3]), target, np.zeros(len(u)))


def _place_slide(sign: float) -> Callable[[Array, Robot], Placement]:
    """Object and goal a hand's width apart along x; `sign` +1: the goal lies further from the base."""

    def place(u: Array, robot: Robot) -> Placement:
        low, high = play_area(robot)
        depth = high[0] - low[0]
        distance = depth * (0.55 + 0.2 * u[:, 2])
        start = _on_table(u[:, :2], robot)
        start[:, 0] = low[0] + u[:, 0] * (depth - distance)
        target = start.copy()
        target[:, 0] += distance
        if sign < 0:
            start[:, 0], target[:, 0] = target[:, 0].copy(), start[:, 0].copy()
        target[:, 1] += (u[:, 4] - 0.5) * 0.03
        return Placement(start, _yaw(u[:, 3]), target, np.zeros(len(u)))

    return place


def _place_pick(u: Array, robot: Robot) -> Placement:
    target = _on_table(u[:, 2:4], robot)
    target[:, 2] = _height(u[:, 4], robot)  # never on the table: the cube has to be lifted
    return Placement(_on_table(u[:, :2], robot), _yaw(u[:, 5]), target, np.zeros(len(u)))


def _place_apart(gap_in_cubes: float, target_height: float) -> Callable[[Array, Robot], Placement]:
    """Object and target on either side of the table's middle; gap and the target's height are in half edges of the cube."""

    def place(u: Array, robot: Robot) -> Placement:
        low, high = play_area(robot)
        start, target = _on_table(u[:, :2], robot), _on_table(u[:, 2:4], robot)
        near = gap_in_cubes * robot.cube_half_size / 2
        side = np.where(u[:, 4] < 0.5, -1.0, 1.0)
        middle, reach = (low[1] + high[1]) / 2, (high[1] - low[1]) / 2 - near
        target[:, 2] = target_height * robot.cube_half_size
        start[:, 1] = middle + side * (near + u[:, 1] * reach)
        target[:, 1] = middle - side * (near + u[:, 3] * reach)
        return Placement(start, _yaw(u[:, 5]), target, _yaw(u[:, 6]))

    return place


# Rewards ----------------------------------------------------------------------------------------------------------


def _reward_reach(f: Frame) -> Array:
    return _near(_norm(f.target - f.tcp))


def _reward_slide(f: Frame) -> Array:
    way = (f.target - f.object) * [1.0, 1.0, 0.0]
    distance = _norm(way)
    # Where a fingertip has to be to slide the cube towards the goal: after a slip or an overshoot that is another side.
    behind = f.object - way / np.maximum(distance, 1e-6)[:, None] * (f.half + 0.01)
    return (_near(_norm(f.tcp - behind)) + 3.0 * _far(distance)) / 4.0


# What follows a grasp weighs three times as much as the grasp: else holding the cube still is worth nearly as much as
# carrying it, and a discounted policy stays there.


def _reward_pick(f: Frame) -> Array:
    reach = _near(_norm(f.object - f.tcp))
    carry = _far(_norm(f.target - f.object)) * f.grasped
    placed = _norm(f.target - f.object) < PLACE_TOLERANCE
    still = (1.0 - np.tanh(5.0 * f.tcp_speed)) * placed
    return (reach + f.grasped + 3.0 * carry + still) / 6.0


def _reward_stack(f: Frame) -> Array:
    on_top = f.target + np.array([0.0, 0.0, 2 * f.half])
    reach = _near(_norm(f.object - f.tcp))
    carry = _near(_norm(on_top - f.object)) * f.grasped
    # Once stacked the grasp has to end: what it paid is kept, and opening pays more.
    return np.where(_stacked(f), 6.0 + f.opening, reach + f.grasped + 3.0 * carry) / 8.0


def _reward_bin(f: Frame) -> Array:
    above = f.target + np.array([0.0, 0.0, 3.5 * f.half])
    reach = _near(_norm(f.object - f.tcp))
    carry = _far(_norm(above - f.object)) * f.grasped
    return np.where(_in_bin(f), 6.0 + f.opening, reach + f.grasped + 3.0 * carry) / 8.0


# Success ----------------------------------------------------------------------------------------------------------


def _reached(f: Frame) -> Mask:
    return _norm(f.target - f.tcp) < PLACE_TOLERANCE


def _slid(f: Frame) -> Mask:
    return (_norm((f.object - f.target)[:, :2]) < GOAL_RADIUS_IN_CUBES * f.half) & (f.object[:, 2] < 1.5 * f.half)


def _picked(f: Frame) -> Mask:
    return (_norm(f.target - f.object) < PLACE_TOLERANCE) & (f.tcp_speed < 0.2)


def _stacked(f: Frame) -> Mask:
    offset = f.object - f.target
    return (_norm(offset[:, :2]) < f.half) & (np.abs(offset[:, 2] - 2 * f.half) < 0.005)


def _stacked_alone(f: Frame) -> Mask:
    return _stacked(f) & ~f.grasped & (f.opening > 0.5) & (f.object_speed < 0.05)


def _in_bin(f: Frame) -> Mask:
    return (np.abs((f.object - f.target)[:, :2]) < BIN_HALF_IN_CUBES * f.half).all(axis=1) & (
        f.object[:, 2] < f.target[:, 2] + 2.5 * f.half
    )


def _in_bin_alone(f: Frame) -> Mask:
    return _in_bin(f) & ~f.grasped & (f.object_speed < 0.05)


TASKS = {
    t.name: t
    for t in (
        Task(
            "Reach",
            "ball",
            ("move the gripper to the green ball", "reach for the green ball", "touch the green ball with the gripper"),
            _place_reach,
            _reward_reach,
            _reached,
            has_object=False,
        ),
        Task(
            "PushCube",
            "disc",
            (
                "push the {object} cube away from the robot base onto the green disc",
                "push the {object} cube forward to the green target",
                "slide the {object} block away from you until it is on the green circle",
            ),
            _place_slide(+1.0),
            _reward_slide,
            _slid,
        ),
        Task(
            "PullCube",
            "disc",
            (
                "pull the {object} cube towards the robot base onto the green disc",
                "drag the {object} cube back to the green target",
                "slide the {object} block towards you until it is on the green circle",
            ),
            _place_slide(-1.0),
            _reward_slide,
            _slid,
        ),
        Task(
            "PickCube",
            "ball",
            (
                "pick up the {object} cube and move it to the green ball",
                "grasp the {object} cube and hold it at the green goal",
                "lift the {object} block to the green ball",
            ),
            _place_pick,
            _reward_pick,
            _picked,
        ),
        Task(
            "StackCube",
            "cube",
            (
                "stack the {object} cube on the {target} cube",
                "put the {object} cube on top of the {target} one",
                "place the {object} block onto the {target} block",
            ),
            _place_apart(5.0, 1.0),
            _reward_stack,
            _stacked_alone,
            max_steps=70,
        ),
        Task(
            "PlaceInBin",
            "bin",
            (
                "place the {object} cube in the bin",
                "put the {object} cube into the bin",
                "drop the {object} block into the box",
            ),
            _place_apart(7.0, 0.0),
            _reward_bin,
            _in_bin_alone,
            max_steps=70,
        ),
    )
}
