"""Controller from actions to servo goals: a Cartesian delta moves a target pose, and inverse kinematics tracks it.

Pure functions of N arms, shared by simulation and deployment.
"""

from __future__ import annotations

import numpy as np

from rpd.envs.control import kinematics
from rpd.envs.control.arm_limits import ArmLimits
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


def aim(
    robot: Robot,
    limits: ArmLimits,
    points: Array,
    target: tuple[Array, Array],
    way: Array,
    turn: Array,
    pose: tuple[Array, Array],
    period: float,
) -> tuple[Array, Array, Array]:
    """Move target poses within the limits of the tool.

    Args:
        robot: its full step bounds the lead of the target.
        limits: workspace, speed, tilt, clearance and obstacles of the tool.
        points: [P, 3] corners of the tool, from `tool_points`.
        target: current target positions [N, 3], m, and quaternions [N, 4].
        way: [N, 3] translation of the target, m.
        turn: [N, 3] rotation of the target, rotation vector, rad.
        pose: measured positions [N, 3], m, and quaternions [N, 4].
        period: time between actions, s.

    Returns:
        New positions [N, 3] and quaternions [N, 4], and the rotation [N, 3] from the measured to the new pose.
    """
    position, quat = pose
    lead, angle = LEAD * robot.max_delta_pos, LEAD * robot.max_delta_rot
    way = way * _at_most(limits.tcp_speed * period, way)
    # Bounds the lead: otherwise a target pushed into the table needs as many steps to come back out.
    moved = np.clip(position + np.clip(target[0] + way - position, -lead, lead), *limits.box)
    error = kinematics.rotation_error(kinematics.quat_mul(kinematics.rotvec_to_quat(turn), target[1]), quat)
    error *= _at_most(angle, error)
    wanted = kinematics.quat_mul(kinematics.rotvec_to_quat(error), quat)
    upright = _within_tilt(wanted, limits.tilt)
    if upright is not wanted:
        error = kinematics.rotation_error(upright, quat)
    # The measured orientation counts too: an arm with five joints does not reach every wanted one.
    if len(limits.obstacles[0]):
        turned = np.concatenate([points @ kinematics.quat_to_mat(q).transpose(0, 2, 1) for q in (upright, quat)], axis=1)
        moved = outside(moved, position, (turned.min(axis=1), turned.max(axis=1)), limits)
    lowest = np.minimum(_lowest(points, upright), _lowest(points, quat))
    moved[:, 2] = np.maximum(moved[:, 2], limits.clearance - lowest)
    return moved, upright, error


def outside(target: Array, position: Array, tool: tuple[Array, Array], limits: ArmLimits) -> Array:
    """Move targets so that the bounding box of the tool keeps the clearance from every obstacle.

    A target stays on the side of an obstacle that the tool is on: of the six sides, the one that it is farthest out of.

    Args:
        target: [N, 3] targets of the tool center point, m.
        position: [N, 3] measured positions, m.
        tool: lowest and highest corners [N, 3] of the tool, relative to the tool center point, m.
        limits: obstacles and clearance.

    Returns:
        [N, 3].
    """
    target = target.copy()
    for low, high in zip(*limits.obstacles, strict=True):
        # Between these positions of the tool center point, the boxes overlap along an axis.
        first, last = low - limits.clearance - tool[1], high + limits.clearance - tool[0]
        side = np.concatenate([first - position, position - last], axis=1).argmax(axis=1)
        rows = np.flatnonzero(((target > first) & (target < last)).all(axis=1))
        axis = side[rows] % 3
        target[rows, axis] = np.where(side[rows] < 3, first[rows, axis], last[rows, axis])
    return target


def _at_most(size: float, vectors: Array) -> Array:
    """Factors [N, 1] that shorten vectors [N, 3] to at most `size`."""
    return np.minimum(1.0, size / np.maximum(np.sqrt((vectors**2).sum(axis=1, keepdims=True)), 1e-9))


def _within_tilt(quat: Array, tilt: float) -> Array:
    """Orientations [N, 4] whose z axis is at most `tilt`, rad, from straight down; `quat` itself if all are."""
    w, x, y, z = quat.T
    axis = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)
    excess = np.arccos(np.clip(-axis[:, 2], -1.0, 1.0)) - tilt
    rows = np.flatnonzero(excess > 0)
    if not rows.size:
        return quat
    across = np.stack([-axis[rows, 1], axis[rows, 0], 0 * rows], axis=1)  # axis x straight down
    size = np.linalg.norm(across, axis=1, keepdims=True)
    across = np.where(size > 1e-9, across / np.maximum(size, 1e-9), [1.0, 0.0, 0.0])  # straight up: any axis
    back = kinematics.rotvec_to_quat(across * excess[rows, None])
    upright = quat.copy()
    upright[rows] = kinematics.quat_mul(back, quat[rows])
    return upright


def _lowest(points: Array, quat: Array) -> Array:
    """Height [N] of the lowest of `points` [P, 3] over the origin of frames with orientations `quat` [N, 4]."""
    w, x, y, z = quat.T
    down = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1)
    return (down @ points.T).min(axis=1)


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
    """
    # A seventh joint would drift: the null space moves toward the home posture.
    posture = POSTURE * (np.array(robot.home) - joints) if joints.shape[1] > 6 else None
    return kinematics.joint_targets(joints, *limits, *jacobian, way, turn, DAMPING, robot.rot_weight, posture)
