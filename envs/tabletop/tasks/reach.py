"""Reach: move the gripper to a ball in the air; no object."""

from __future__ import annotations

import numpy as np

from rpd.envs.robots import Robot
from rpd.envs.tabletop.tasks.base import PLACE_TOLERANCE, Array, Frame, Mask, Placement, Task, height, near, norm, on_table, yaw


def _place_reach(u: Array, robot: Robot) -> Placement:
    target = on_table(u[:, :2], robot)
    target[:, 2] = height(u[:, 2], robot)
    return Placement(target.copy(), yaw(u[:, 3]), target, np.zeros(len(u)))


def _reward_reach(f: Frame) -> Array:
    return near(norm(f.target - f.tcp))


def _reached(f: Frame) -> Mask:
    return norm(f.target - f.tcp) < PLACE_TOLERANCE


TASKS = (
    Task(
        "Reach",
        "ball",
        ("move the gripper to the green ball", "reach for the green ball", "touch the green ball with the gripper"),
        _place_reach,
        _reward_reach,
        _reached,
        thing=None,
    ),
)
