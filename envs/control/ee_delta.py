"""The controller between an action and the servos: a Cartesian delta moves a target pose, inverse kinematics follows it.

Pure functions of N arms at once, so that what an arm in the simulator does is what a real one is told to do.
"""

from __future__ import annotations

import numpy as np

from envs.specs import ActionSpec
from envs.tabletop import ik
from envs.tabletop.ik import Array
from envs.tabletop.robots import Robot

DIMENSIONS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Of an action."""
UNITS = ("m", "m", "m", "rad", "rad", "rad", "open")
DAMPING = 0.02  # m, of the differential inverse kinematics
POSTURE = 0.1  # fraction of the way home per step, where a joint is free
LEAD = 2.0  # the target may run ahead of the arm by this many full steps


def action_spec(robot: Robot) -> ActionSpec:
    """The actions that the controller takes."""
    return ActionSpec(
        names=DIMENSIONS,
        units=UNITS,
        scale=(robot.max_delta_pos,) * 3 + (robot.max_delta_rot,) * 3 + (1.0,),
        discrete=(False,) * 6 + (True,),
    )


def work_box(robot: Robot) -> tuple[Array, Array]:
    """Where target positions may be: lowest and highest corner [3], m."""
    (x0, y0), (x1, y1) = robot.workspace
    reach = 0.1  # m beyond the work area: room to go around and behind things
    return np.array([x0 - reach, y0 - reach, 0.0]), np.array([x1 + reach, y1 + reach, robot.max_height + reach])


def aim(
    robot: Robot, target: tuple[Array, Array], way: Array, turn: Array, pose: tuple[Array, Array], box: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """Move target poses.

    Args:
        robot: whose full step bounds how far a target may run ahead.
        target: positions [N, 3], m, and quaternions [N, 4] so far.
        way: [N, 3] to move them by, m.
        turn: [N, 3] to turn them by, rotation vector, rad.
        pose: where the arms are: positions [N, 3] and quaternions [N, 4].
        box: lowest and highest corner [3] of where target positions may be.

    Returns:
        The new positions [N, 3] and quaternions [N, 4], and the rotation [N, 3] from the arms to them.
    """
    position, quat = pose
    lead, angle = LEAD * robot.max_delta_pos, LEAD * robot.max_delta_rot
    # Without a bound on how far it runs ahead, a target pushed into the table would take as long to come back.
    moved = np.clip(position + np.clip(target[0] + way - position, -lead, lead), *box)
    error = ik.rotation_error(ik.quat_mul(ik.rotvec_to_quat(turn), target[1]), quat)
    size = np.sqrt((error**2).sum(axis=1, keepdims=True))
    error *= np.minimum(1.0, angle / np.maximum(size, 1e-9))
    return moved, ik.quat_mul(ik.rotvec_to_quat(error), quat), error


def servo_goals(
    robot: Robot, joints: Array, limits: tuple[Array, Array], jacobian: tuple[Array, Array], way: Array, turn: Array
) -> Array:
    """Joint positions [N, n], rad, that take arms towards their targets.

    Args:
        robot: the arm.
        joints: [N, n] where its joints are, rad.
        limits: lowest and highest positions [n], rad.
        jacobian: of positions and rotations, [N, 3, n] each.
        way: [N, 3] from the arms to their targets, m.
        turn: [N, 3] from the arms to their targets, rotation vector, rad.
    """
    # A seventh joint would drift: what the task leaves free goes home.
    posture = POSTURE * (np.array(robot.home) - joints) if joints.shape[1] > 6 else None
    return ik.joint_targets(joints, *limits, *jacobian, way, turn, DAMPING, robot.rot_weight, posture)
