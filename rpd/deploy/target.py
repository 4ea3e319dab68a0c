"""Limits of the controller's target pose: what the safety layer would not let the tool reach is not aimed at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rpd.deploy.safety import Limits
from rpd.envs.control import kinematics
from rpd.envs.control.arm import Array

INSET, INSET_ANGLE = 0.001, 0.01
"""Distances of targets from the limits, m and rad: motion along a limit is not held back by small errors of the tracking."""
DOWN = np.array([0.0, 0.0, -1.0])


class TargetLimits:
    """Keeps target poses where the tool may be.

    Args:
        limits: workspace and tilt of the tool.
        lowest: lowest height of the tool center point, m, at which hand and fingers are clear of the table, by rotation [3, 3].

    Attributes:
        box: lowest and highest corner [3] of target positions, m.
    """

    def __init__(self, limits: Limits, lowest: Callable[[Array], float]) -> None:
        low, high = limits.box
        inset = np.minimum(INSET, (high - low) / 2)
        self.box = low + inset, high - inset
        self._tilt, self._lowest = max(limits.tilt - INSET_ANGLE, 0.0), lowest

    def limit(self, position: Array, quat: Array) -> tuple[Array, Array]:
        """Nearest allowed pose: first the orientation is turned toward straight down, then the position is raised.

        Args:
            position: [3] m, in `box`.
            quat: [4].
        """
        quat = self._upright(quat)
        low = max(position[2], self._lowest(kinematics.quat_to_mat(quat)) + INSET)
        return np.array([position[0], position[1], min(low, self.box[1][2])]), quat

    def _upright(self, quat: Array) -> Array:
        axis = kinematics.quat_to_mat(quat)[:, 2]
        tilt = np.arccos(np.clip(axis @ DOWN, -1, 1))
        if tilt <= self._tilt:
            return quat
        across = np.cross(axis, DOWN)
        size = np.linalg.norm(across)
        across = across / size if size > 1e-9 else np.array([1.0, 0.0, 0.0])  # straight up: any way down
        return kinematics.quat_mul(kinematics.rotvec_to_quat((tilt - self._tilt) * across), quat)
