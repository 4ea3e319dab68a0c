"""Where the cameras stand, in proportion to a robot's work area."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop.camera import Camera, look_at
from envs.tabletop.robots import Robot


def cameras(robot: Robot) -> dict[str, Camera]:
    """The cameras that can be observed, by name.

    ``front`` looks back at the robot, ``side`` across the table, ``wrist`` rides on the hand and looks out of it.
    """
    x, s = _middle(robot)
    wrist = math.radians(20)
    # Columns right, down, forward in the tcp frame (z out of the gripper): behind the fingers, tilted towards them.
    tilt = np.array([[0, -math.cos(wrist), math.sin(wrist)], [1, 0, 0], [0, math.sin(wrist), math.cos(wrist)]])
    return {
        "front": look_at("front", (x + 1.55 * s, 0.0, 1.15 * s), (x - 0.05 * s, 0.0, 0.15 * s), math.radians(42)),
        "side": look_at("side", (x, -1.7 * s, 0.9 * s), (x, 0.0, 0.15 * s), math.radians(42)),
        "wrist": Camera("wrist", np.array([-0.16 * s, 0.0, -0.28 * s]), tilt, math.radians(70), mounted=True),
    }


def people_camera(robot: Robot) -> Camera:
    """The camera of videos: further out, so that the whole arm is in the picture."""
    x, s = _middle(robot)
    return look_at("people", (x + 1.9 * s, 1.2 * s, 1.5 * s), (x - 0.35 * s, 0.0, 0.3 * s), math.radians(42))


def _middle(robot: Robot) -> tuple[float, float]:
    """Centre of the work area along x, and its size, m."""
    (x0, y0), (x1, y1) = robot.workspace
    return (x0 + x1) / 2, max(x1 - x0, y1 - y0)
