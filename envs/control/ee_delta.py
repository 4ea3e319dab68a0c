"""Controller from actions to servo goals: a Cartesian delta moves a target pose, and inverse kinematics tracks it.

Pure functions of N arms, shared by simulation and deployment.
"""

from __future__ import annotations

import numpy as np

from rpd.envs.control import kinematics
from rpd.envs.control.kinematics import Array
from rpd.envs.robots import Robot
from rpd.envs.specs import ActionSpec

DIMENSIONS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Names of the action dimensions."""
UNITS = ("m", "m", "m", "rad", "rad", "rad", "open")
DAMPING = 0.02  # damping of the differential inverse kinematics, m
POSTURE = 0.1  # fraction of the distance to the home posture per step, in the null space
LEAD = 2.0  # maximum lead of the target over the arm, in full steps


def action_spec(robot: Robot) -> ActionSpec:
    """Action space of the controller."""
    return ActionSpec(
        names=DIMENSIONS,
        units=UNITS,
        scale=(robot.max_delta_pos,) * 3 + (robot.max_delta_rot,) * 3 + (1.0,),
        discrete=(False,) * 6 + (True,),
    )


def work_box(robot: Robot) -> tuple[Array, Array]:
    """Bounds of target positions: lowest and highest corner [3], m."""
    (x0, y0), (x1, y1) = robot.workspace
    reach = 0.1  # margin around the work area, m, to move around and behind objects
    return np.array([x0 - reach, y0 - reach, 0.0]), np.array([x1 + reach, y1 + reach, robot.max_height + reach])


def aim(
    robot: Robot, target: tuple[Array, Array], way: Array, turn: Array, pose: tuple[Array, Array], box: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """Move target poses.

    Args:
        robot: its full step bounds the lead of the target.
        target: current target positions [N, 3], m, and quaternions [N, 4].
        way: [N, 3] translation of the target, m.
        turn: [N, 3] rotation of the target, rotation vector, rad.
        pose: measured positions [N, 3], m, and quaternions [N, 4].
        box: lowest and highest corner [3] of target positions, m.

    Returns:
        New positions [N, 3] and quaternions [N, 4], and the rotation [N, 3] from the measured to the new pose.
    """
    position, quat = pose
    lead, angle = LEAD * robot.max_delta_pos, LEAD * robot.max_delta_rot
    # Bounds the lead: otherwise a target pushed into the table needs as many steps to come back out.
    moved = np.clip(position + np.clip(target[0] + way - position, -lead, lead), *box)
    error = kinematics.rotation_error(kinematics.quat_mul(kinematics.rotvec_to_quat(turn), target[1]), quat)
    size = np.sqrt((error**2).sum(axis=1, keepdims=True))
    error *= np.minimum(1.0, angle / np.maximum(size, 1e-9))
    return moved, kinematics.quat_mul(kinematics.rotvec_to_quat(error), quat), error


def servo_goals(
    robot: Robot, joints: Array, limits: tuple[Array, Array], jacobian: tuple[Array, Array], way: Array, turn: Array
) -> Array:
    """Joint positions [N, n], rad, that move arms toward their targets.

    Args:
        robot: the arm.
        joints: [N, n] measured joint positions, rad.
        limits: lowest and highest positions [n], rad.
        jacobian: position and rotation Jacobians, [N, 3, n] each.
        way: [N, 3] from the measured to the target position, m.
        turn: [N, 3] from the measured to the target orientation, rotation vector, rad.
        turn: [N, 3] from the arms to their targets, rotation vector, rad.
    """
    # A seventh joint would drift: the null space moves toward the home posture.
    posture = POSTURE * (np.array(robot.home) - joints) if joints.shape[1] > 6 else None
    return kinematics.joint_targets(joints, *limits, *jacobian, way, turn, DAMPING, robot.rot_weight, posture)
