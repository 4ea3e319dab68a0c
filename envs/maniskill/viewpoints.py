"""Poses of ManiSkill's cameras relative to the robot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rpd.envs.control.kinematics import quat_to_mat
from rpd.envs.specs import Viewpoint

ON_HAND = ("hand_camera", "fetch_hand")
"""Cameras that are rigidly mounted on the hand."""
_TO_IMAGE = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""SAPIEN's camera axes (into the image, left, up) as the directions right, down and into the image."""


def viewpoints(base: Any, cameras: Iterable[str]) -> dict[str, Viewpoint]:
    """Cameras by observation key, in the first scene.

    Cameras of several robots, or on a link that moves relative to the base and the hand, are left out.

    Args:
        base: ManiSkill's environment.
        cameras: names of the cameras.
    """
    found: dict[str, Viewpoint] = {}
    stage = base.scene
    if hasattr(base.agent, "agents_dict"):
        return found
    for name in cameras:
        camera, mounted = (stage.human_render_cameras | stage.sensors)[name], name in ON_HAND
        if camera.config.mount is not None and not mounted:
            continue
        frame = base.agent.tcp.pose if mounted else base.agent.robot.pose
        (origin, turn), (position, rotation) = _transform(frame), _transform(camera.camera.global_pose)
        focal = float(camera.camera.get_intrinsic_matrix()[0, 1, 1])
        fov = 2 * math.atan(camera.config.height / (2 * focal))
        found[f"image.{name}"] = Viewpoint.of(turn.T @ (position - origin), turn.T @ rotation @ _TO_IMAGE, fov, mounted)
    return found


def _transform(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and rotation [3, 3] of a pose in the first scene."""
    raw = pose.raw_pose[0].cpu().double().numpy()
    return raw[:3], quat_to_mat(raw[None, 3:])[0]
