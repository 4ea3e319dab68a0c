"""Tasks that slide a cube onto a disc by pushing or pulling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rpd.envs.robots import Robot
from rpd.envs.tabletop.tasks.base import Array, Frame, Mask, Placement, Task, far, near, norm, on_table, play_area, yaw

GOAL_RADIUS_IN_CUBES = 1.75  # radius of the disc, in half edges of the cube


def _place_slide(sign: float) -> Callable[[Array, Robot], Placement]:
    """Place object and goal a hand's width apart along x; `sign` +1: the goal is further from the base."""

    def place(u: Array, robot: Robot) -> Placement:
        low, high = play_area(robot)
        depth = high[0] - low[0]
        distance = depth * (0.55 + 0.2 * u[:, 2])
        start = on_table(u[:, :2], robot)
        start[:, 0] = low[0] + u[:, 0] * (depth - distance)
        target = start.copy()
        target[:, 0] += distance
        if sign < 0:
            start[:, 0], target[:, 0] = target[:, 0].copy(), start[:, 0].copy()
        target[:, 1] += (u[:, 4] - 0.5) * 0.03
        return Placement(start, yaw(u[:, 3]), target, np.zeros(len(u)))

    return place


def _reward_slide(f: Frame) -> Array:
    way = (f.target - f.object) * [1.0, 1.0, 0.0]
    distance = norm(way)
    # Contact side of the cube for sliding it toward the goal; it changes after a slip or an overshoot.
    behind = f.object - way / np.maximum(distance, 1e-6)[:, None] * (f.half + 0.01)
    return (near(norm(f.tcp - behind)) + 3.0 * far(distance)) / 4.0


def _slid(f: Frame) -> Mask:
    return (norm((f.object - f.target)[:, :2]) < GOAL_RADIUS_IN_CUBES * f.half) & (f.object[:, 2] < 1.5 * f.half)


TASKS = (
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
)
