"""Camera poses, scaled with a robot's play area."""

from __future__ import annotations

import math

import numpy as np

from rpd.envs.robots import Robot
from rpd.envs.tabletop.camera import Camera, look_at
from rpd.envs.tabletop.tasks import play_area


def cameras(robot: Robot) -> dict[str, Camera]:
    """Observation cameras by name.

    ``front`` faces the robot, ``side`` looks across the table, ``wrist`` is mounted on the hand and looks outward.
    """
    x, s = _middle(robot)
    wrist = math.radians(35)
    # Columns right, down, forward in the TCP frame (z out of the gripper): behind the fingers, tilted toward them.
    tilt = np.array([[0, -math.cos(wrist), math.sin(wrist)], [1, 0, 0], [0, math.sin(wrist), math.cos(wrist)]])
    return {
        "front": look_at("front", (x + 1.5 * s, 0.0, 1.35 * s), (x - 0.05 * s, 0.0, 0.12 * s), math.radians(42)),
        "side": look_at("side", (x, -1.7 * s, 0.9 * s), (x, 0.0, 0.15 * s), math.radians(42)),
        "wrist": Camera("wrist", np.array([-0.12, 0.0, -0.11]), tilt, math.radians(70), mounted=True),
    }


def people_camera(robot: Robot) -> Camera:
    """Viewer camera of videos: further away, with the whole arm in view."""
    x, s = _middle(robot)
    return look_at("people", (x + 2.3 * s, 1.4 * s, 1.7 * s), (x - 0.4 * s, 0.0, 0.4 * s), math.radians(42))


def _middle(robot: Robot) -> tuple[float, float]:
    """Center of the play area along x, and its size, m."""
    low, high = play_area(robot)
    return float(low[0] + high[0]) / 2, float(max(high - low))
