"""Controller from policy actions to joint positions: the tabletop simulation's controller, on measured joints."""

from __future__ import annotations

import numpy as np

from rpd.deploy.safety import Limits
from rpd.deploy.target import TargetLimits
from rpd.envs.control import kinematics
from rpd.envs.control.arm import Arm, Array
from rpd.envs.control.ee_delta import DIMENSIONS, UNITS, aim, servo_goals
from rpd.envs.errors import ConfigError
from rpd.envs.robots import Robot
from rpd.envs.specs import ActionSpec


class Controller:
    """Moves a target pose by actions and computes joint positions that track it.

    Attributes:
        target: target of the tool center point [3], base frame, m.

    Raises:
        ConfigError: the actions are not Cartesian deltas with a gripper.
    """

    def __init__(self, robot: Robot, arm: Arm, action: ActionSpec, limits: Limits, allowed: TargetLimits) -> None:
        if action.names != DIMENSIONS or action.units != UNITS or action.frame != "base":
            raise ConfigError(
                f"the policy's actions are {' '.join(action.names)} in {' '.join(action.units)} (frame {action.frame}), and a "
                f"robot takes {' '.join(DIMENSIONS)} in {' '.join(UNITS)} (frame base)"
            )
        self._robot, self._arm, self._limits, self._allowed = robot, arm, limits, allowed
        self._scale = np.array(action.scale)
        self.target: Array = np.zeros(3)
        self._quat: Array = np.array([1.0, 0.0, 0.0, 0.0])

    def reset(self, joints: Array) -> None:
        """Set the target to the current pose of the arm, given its joints [n], rad."""
        position, quat = self._pose(joints)
        self.target, self._quat = position[0], quat[0]

    def step(self, action: Array, joints: Array) -> Array:
        """Move the target by an action.

        Args:
            action: [7] in [-1, 1].
            joints: [n] measured, rad.

        Returns:
            [n] goal of the joints for the next control step, rad.
        """
        pose = self._pose(joints)
        delta = (action * self._scale)[None]
        position, quat, _ = aim(
            self._robot, (self.target[None], self._quat[None]), delta[:, :3], delta[:, 3:6], pose, self._allowed.box
        )
        self.target, self._quat = self._allowed.limit(position[0], quat[0])
        turn = kinematics.rotation_error(self._quat, pose[1])
        jacobian = self._arm.jacobian(joints[None])
        limits = self._limits.lower, self._limits.upper
        return servo_goals(self._robot, joints[None], limits, jacobian, self.target - pose[0], turn)[0]

    def _pose(self, joints: Array) -> tuple[Array, Array]:
        position, rotation = self._arm.forward(joints[None])
        return position, kinematics.mat_to_quat(rotation)
