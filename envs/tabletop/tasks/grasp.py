"""Grasping tasks with cubes: lift, stack, place in a bin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rpd.envs.robots import Robot
from rpd.envs.tabletop.tasks.base import (
    PLACE_TOLERANCE,
    Array,
    Frame,
    Mask,
    Placement,
    Task,
    far,
    height,
    near,
    norm,
    on_table,
    play_area,
    yaw,
)

BIN_HALF_IN_CUBES = 3.5  # half the bin's inner edge, in half edges of the cube
BIN_HEIGHT_IN_CUBES = 1.2  # half the height of its walls, in half edges of the cube
BIN_WALL = 0.004  # half the thickness of its walls, m


def _place_pick(u: Array, robot: Robot) -> Placement:
    target = on_table(u[:, 2:4], robot)
    target[:, 2] = height(u[:, 4], robot)  # never on the table: requires lifting
    return Placement(on_table(u[:, :2], robot), yaw(u[:, 5]), target, np.zeros(len(u)))


def _place_apart(gap_in_cubes: float, target_height: float) -> Callable[[Array, Robot], Placement]:
    """Place object and target on opposite sides of the table; gap and target height in half edges of the cube."""

    def place(u: Array, robot: Robot) -> Placement:
        low, high = play_area(robot)
        start, target = on_table(u[:, :2], robot), on_table(u[:, 2:4], robot)
        near = gap_in_cubes * robot.cube_half_size / 2
        side = np.where(u[:, 4] < 0.5, -1.0, 1.0)
        middle, reach = (low[1] + high[1]) / 2, (high[1] - low[1]) / 2 - near
        target[:, 2] = target_height * robot.cube_half_size
        start[:, 1] = middle + side * (near + u[:, 1] * reach)
        target[:, 1] = middle - side * (near + u[:, 3] * reach)
        return Placement(start, yaw(u[:, 5]), target, yaw(u[:, 6]))

    return place


# Rewards after a grasp have three times the weight of the grasp: otherwise holding the cube still is worth nearly as much as
# carrying it, and a discounted policy converges to it.


def _reward_pick(f: Frame) -> Array:
    reach = near(norm(f.object - f.tcp))
    carry = far(norm(f.target - f.object)) * f.grasped
    placed = norm(f.target - f.object) < PLACE_TOLERANCE
    still = (1.0 - np.tanh(5.0 * f.tcp_speed)) * placed
    return (reach + f.grasped + 3.0 * carry + still) / 6.0


def _reward_stack(f: Frame) -> Array:
    on_top = f.target + np.array([0.0, 0.0, 2 * f.half])
    reach = near(norm(f.object - f.tcp))
    carry = near(norm(on_top - f.object)) * f.grasped
    # Once stacked, the grasp has to end: its reward is kept, and opening is rewarded.
    return np.where(_stacked(f), 6.0 + f.opening, reach + f.grasped + 3.0 * carry) / 8.0


def _reward_bin(f: Frame) -> Array:
    above = f.target + np.array([0.0, 0.0, 3.5 * f.half])
    reach = near(norm(f.object - f.tcp))
    carry = far(norm(above - f.object)) * f.grasped
    return np.where(_in_bin(f), 6.0 + f.opening, reach + f.grasped + 3.0 * carry) / 8.0


def _picked(f: Frame) -> Mask:
    return (norm(f.target - f.object) < PLACE_TOLERANCE) & (f.tcp_speed < 0.2)


def _stacked(f: Frame) -> Mask:
    offset = f.object - f.target
    return (norm(offset[:, :2]) < f.half) & (np.abs(offset[:, 2] - 2 * f.half) < 0.005)


def _stacked_alone(f: Frame) -> Mask:
    return _stacked(f) & ~f.grasped & (f.opening > 0.5) & (f.object_speed < 0.05)


def _in_bin(f: Frame) -> Mask:
    return (np.abs((f.object - f.target)[:, :2]) < BIN_HALF_IN_CUBES * f.half).all(axis=1) & (
        f.object[:, 2] < f.target[:, 2] + 2.5 * f.half
    )


def _in_bin_alone(f: Frame) -> Mask:
    return _in_bin(f) & ~f.grasped & (f.object_speed < 0.05)


TASKS = (
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
