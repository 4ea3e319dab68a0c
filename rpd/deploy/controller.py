"""Controller from policy actions to joint positions: the tabletop simulation's controller, on measured joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rpd.deploy.collision import RESOLUTION
from rpd.envs.control import kinematics
from rpd.envs.control.arm import Arm, Array
from rpd.envs.control.arm_limits import ArmLimits, tool_points
from rpd.envs.control.ee_delta import DIMENSIONS, UNITS, aim, servo_goals
from rpd.envs.errors import ConfigError
from rpd.envs.robots import Robot
from rpd.envs.specs import ActionSpec

REACHED = 1e-6  # rad: commands nearer to a goal have reached it
INSET, INSET_ANGLE = 0.001, 0.01
"""Distances of targets from the limits, m and rad: motion along a limit is not held back by small errors of the tracking."""


def check_actions(action: ActionSpec) -> None:
    """Raise if actions are not Cartesian deltas with a gripper.

    Raises:
        ConfigError: states both sides.
    """
    if action.names != DIMENSIONS or action.units != UNITS or action.frame != "base":
        raise ConfigError(
            f"the policy's actions are {' '.join(action.names)} in {' '.join(action.units)} (frame {action.frame}), and a "
            f"robot takes {' '.join(DIMENSIONS)} in {' '.join(UNITS)} (frame base)"
        )


class Controller:
    """Moves a target pose by actions and computes joint positions that track it.

    Attributes:
        target: target of the tool center point [3], base frame, m.

    Raises:
        ConfigError: the actions are not Cartesian deltas with a gripper.
    """

    def __init__(self, robot: Robot, arm: Arm, action: ActionSpec, limits: ArmLimits, period: float) -> None:
        check_actions(action)
        self._robot, self._arm = robot, arm
        self._limits, self._tool, self._period = _inset(limits), tool_points(robot), period
        self._scale = np.array(action.scale)
        self.target, self._quat = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
        self._goal: Array | None = None

    def reset(self, joints: Array) -> None:
        """Set the target to the current pose of the arm, given its joints [n], rad."""
        position, quat = self._pose(joints)
        self.target, self._quat, self._goal = position[0], quat[0], None

    def follow(self, commanded: Array) -> None:
        """Let the target wait for the arm: if limits kept the commands from the goal, it starts from the commanded posture.

        As in training, see `rpd.envs.tabletop.env`; to be called before the target is observed.

        Args:
            commanded: [n] last command, rad.
        """
        if self._goal is not None and np.abs(commanded - self._goal).max() > REACHED:
            position, turned = self._pose(commanded)
            self.target, self._quat = position[0], turned[0]

    def step(self, action: Array, joints: Array, commanded: Array) -> Array:
        """Move the target by an action, after `follow`.

        Args:
            action: [7] in [-1, 1].
            joints: [n] measured, rad.
            commanded: [n] last command, rad.

        Returns:
            [n] goal of the joints for the next control step, rad.
        """
        pose = self._pose(joints)
        delta = (action * self._scale)[None]
        self.follow(commanded)
        target, quat, turn = aim(
            self._robot, self._limits, self._tool, (self.target[None], self._quat[None]), delta[:, :3], delta[:, 3:6], pose,
            self._period,
        )  # fmt: skip
        self.target, self._quat = target[0], quat[0]
        jacobian = self._arm.jacobian(joints[None])
        limits = self._limits.lower, self._limits.upper
        self._goal = servo_goals(self._robot, joints[None], limits, jacobian, target - pose[0], turn)[0]
        return self._goal

    def _pose(self, joints: Array) -> tuple[Array, Array]:
        position, rotation = self._arm.forward(joints[None])
        return position, kinematics.mat_to_quat(rotation)


def _inset(limits: ArmLimits) -> ArmLimits:
    """Limits of the target: what the safety layer would not let the tool reach is not aimed at."""
    low, high = limits.box
    inset = np.minimum(INSET, (high - low) / 2)
    tilt, clearance = max(limits.tilt - INSET_ANGLE, 0.0), limits.clearance + RESOLUTION + INSET
    return replace(limits, box=(low + inset, high - inset), tilt=tilt, clearance=clearance)
