"""Forward kinematics from a robot description, without a simulator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rpd.envs.control import kinematics
from rpd.envs.robots import Robot
from rpd.envs.robots.base import IDENTITY, Quat, Vec3

Array = NDArray[np.floating]


class Arm:
    """A chain of hinge joints about their own z axes, with a tool.

    Args:
        robot: links and gripper, see `rpd.envs.robots`.
    """

    def __init__(self, robot: Robot) -> None:
        self.joints = robot.joints
        self._links = np.stack([_transform(link.pos, link.quat) for link in robot.links])  # [n, 4, 4]
        self._tool = _transform(robot.gripper.pos, robot.gripper.quat) @ _transform(robot.gripper.tcp)

    def forward(self, joints: Array) -> tuple[Array, Array]:
        """Pose of the tool center point in the base frame.

        Args:
            joints: [K, n] rad.

        Returns:
            Position [K, 3], m, and rotation [K, 3, 3], with z out of the gripper and y along its opening.
        """
        pose = self._frames(joints)[-1] @ self._tool
        return pose[:, :3, 3], pose[:, :3, :3]

    def jacobian(self, joints: Array) -> tuple[Array, Array]:
        """Position and rotation Jacobian of the tool center point, [K, 3, n] each, base frame, at joints [K, n], rad."""
        frames = np.stack(self._frames(joints), axis=1)  # [K, n, 4, 4]
        axes, position = frames[:, :, :3, 2], (frames[:, -1] @ self._tool)[:, None, :3, 3]
        return np.cross(axes, position - frames[:, :, :3, 3]).transpose(0, 2, 1), axes.transpose(0, 2, 1)

    def _frames(self, joints: Array) -> list[Array]:
        """Frames of the links [K, 4, 4], from base to flange."""
        turned = np.zeros((*joints.shape, 4, 4))
        turned[..., 0, 0] = turned[..., 1, 1] = np.cos(joints)
        turned[..., 1, 0] = np.sin(joints)
        turned[..., 0, 1] = -turned[..., 1, 0]
        turned[..., 2, 2] = turned[..., 3, 3] = 1.0
        local = self._links @ turned
        frames = [local[:, 0]]
        for i in range(1, joints.shape[1]):
            frames.append(frames[-1] @ local[:, i])
        return frames


def _transform(pos: Vec3, quat: Quat = IDENTITY) -> Array:
    """Homogeneous transformation matrix [4, 4]."""
    q = np.array(quat, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = kinematics.quat_to_mat(q / np.linalg.norm(q))
    matrix[:3, 3] = pos
    return matrix
