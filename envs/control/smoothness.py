"""Costs of motion that is not smooth, each in [0, 1] per control step; options subtract them from the reward."""

from __future__ import annotations

import numpy as np

from rpd.envs.control.joint_limiter import JointLimits
from rpd.envs.control.kinematics import Array

MOTION = 6  # continuous dimensions of a command; the gripper is the last one


def action_rate(command: Array, before: Array) -> Array:
    """Mean squared change of commands [N, 7] in [-1, 1], relative to the largest possible one: [N]."""
    return (((command - before)[:, :MOTION] / 2) ** 2).mean(axis=1)


def jerk(change: Array, before: Array, limits: JointLimits, period: float) -> Array:
    """Mean squared change of the joints' accelerations, relative to the largest that the limits allow: [N].

    Args:
        change: [N, n] change of the commanded velocities in this control step, rad/s.
        before: the same of the step before.
        limits: limits of the arm.
        period: control period, s.
    """
    return (((change - before) / (2 * limits.acceleration * period)) ** 2).mean(axis=1)


def withheld(wanted: Array, moved: Array, before: Array) -> Array:
    """Distance from wanted to commanded positions, relative to the wanted motion, at most 1: [N].

    Args:
        wanted: [N, n] joint positions that the policy asks for, rad.
        moved: [N, n] joint positions within the limits, rad.
        before: [N, n] joint positions of the previous command, rad.
    """
    asked = np.linalg.norm(wanted - before, axis=1)
    return np.minimum(np.linalg.norm(wanted - moved, axis=1) / np.maximum(asked, 1e-6), 1.0)
