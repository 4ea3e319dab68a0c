"""Where the cameras stand, in proportion to a robot's play area."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop.camera import Camera, look_at
from envs.tabletop.robots import Robot
from envs.tabletop.tasks import play_area


def cameras(robot: Robot) -> dict[str, Camera]:
    """The cameras that can be observed, by name.

    ``front`` looks back at the robot, ``side`` across the table, ``wrist`` rides on the hand and looks out of it.
    """
    x, s = _middle(robot)
    wrist = math.radians(35)
    # Columns right, down, forward in the tcp frame (z out of the gripper): behind the fingers, tilted towards them.
    tilt = np.array([[0, -math.cos(wrist), math.sin(wrist)], [1, 0, 0], [0, math.sin(wrist), math.cos(wrist)]])
    return {
        "front": look_at("front", (x + 1.5 * s, 0.0, 1.35 * s), (x - 0.05 * s, 0.0, 0.12 * s), math.radians(42)),
        "side": look_at("side", (x, -1.7 * s, 0.9 * s), (x, 0.0, 0.15 * s), math.radians(42)),
        "wrist": Camera("wrist", np.array([-0.12, 0.0, -0.11]), tilt, math.radians(70), mounted=True),
    }


def people_camera(robot: Robot) -> Camera:
    """The camera of videos: further out, so that the whole arm is in the picture."""
    x, s = _middle(robot)
    return look_at("people", (x + 2.3 * s, 1.4 * s, 1.7 * s), (x - 0.4 * s, 0.0, 0.4 * s), math.radians(42))


def _middle(robot: Robot) -> tuple[float, float]:
    """Centre of the play area along x, and its size, m."""
    low, high = play_area(robot)
    return float(low[0] + high[0]) / 2, float(max(high - low))
