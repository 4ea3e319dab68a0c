"""Differences of a camera's measured viewpoint from the one of a training."""

from __future__ import annotations

import math

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.envs.control.arm import Array
from rpd.envs.specs import EnvSpec, Viewpoint

MOVED, TURNED, WIDER = 0.02, math.radians(3), math.radians(2)
"""Largest differences without a remark: distance, m, angle and field of view, rad."""


def angle(a: Array, b: Array) -> float:
    """Angle between two rotations [3, 3], rad."""
    return float(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


def difference(measured: Viewpoint, trained: Viewpoint) -> tuple[float, float, float]:
    """Distance, m, angle, rad, and difference of the field of view, rad, of two viewpoints.

    A mirrored image is compared as if it were not: a real camera has none.
    """
    flip = np.diag([np.sign(np.linalg.det(np.array(trained.rotation))), 1.0, 1.0])
    turned = angle(np.array(measured.rotation), np.array(trained.rotation) @ flip)
    return float(np.linalg.norm(np.subtract(measured.position, trained.position))), turned, measured.fov - trained.fov


def placed_elsewhere(wanted: EnvSpec, config: RobotConfig) -> list[str]:
    """One line per camera whose measured viewpoint differs from that of the training.

    Args:
        wanted: spec of the policy.
        config: config of the robot, with the viewpoints that `rpd robot check` has measured.
    """
    lines = []
    for key, trained in wanted.viewpoints.items():
        name = key.removeprefix("image.")
        camera = config.cameras.get(name)
        if camera is None or camera.viewpoint is None:
            continue
        far, turn, fov = difference(camera.viewpoint, trained)
        if far > MOVED or turn > TURNED or abs(fov) > WIDER:
            lines.append(
                f"camera {name} is {1000 * far:.0f} mm and {math.degrees(turn):.1f}° from its place in the training, and its "
                f"field of view {math.degrees(fov):+.1f}°"
            )
    return lines
