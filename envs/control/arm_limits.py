"""Limits of an arm and of its tool, for training and deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rpd.envs.control.joint_limiter import JointLimits
from rpd.envs.control.kinematics import Array
from rpd.envs.robots import Robot

WORKSPACE_MARGIN = 0.1  # around the work area, m, to move around and behind objects
MAX_TILT = math.radians(60)
CLEARANCE = 0.005  # m


@dataclass(frozen=True)
class ArmLimits(JointLimits):
    """Limits of an arm with n joints and of its tool; all finite."""

    box: tuple[Array, Array]
    """Lowest and highest corner [3] of the workspace of the tool center point, m."""
    tcp_speed: float
    """Maximum speed of the tool center point, m/s."""
    tilt: float
    """Largest angle of the tool from straight down, rad."""
    clearance: float
    """Smallest distance of hand and fingers from the table and the obstacles, m."""
    obstacles: tuple[Array, Array] = field(default_factory=lambda: (np.zeros((0, 3)), np.zeros((0, 3))))
    """Lowest and highest corners [B, 3] of boxes that the arm must not touch, m."""
    obstacle_names: tuple[str, ...] = ()


def work_box(robot: Robot) -> tuple[Array, Array]:
    """Workspace of the tool center point in training: lowest and highest corner [3], m."""
    (x0, y0), (x1, y1) = robot.workspace
    margin = WORKSPACE_MARGIN
    return np.array([x0 - margin, y0 - margin, 0.0]), np.array([x1 + margin, y1 + margin, robot.max_height + margin])


def published(robot: Robot) -> ArmLimits:
    """Limits from the manufacturer's data, and the workspace of training."""
    lower, upper = np.array([link.limits for link in robot.links]).T
    return ArmLimits(
        lower=lower,
        upper=upper,
        velocity=np.array([link.velocity for link in robot.links]),
        acceleration=np.array(robot.acceleration),
        box=work_box(robot),
        tcp_speed=robot.tcp_speed,
        tilt=MAX_TILT,
        clearance=CLEARANCE,
    )


def unlimited(robot: Robot) -> ArmLimits:
    """Limits of the range of the joints and of the workspace only: an arm with servos of unlimited speed."""
    limits = published(robot)
    endless = np.full(len(robot.joints), 1e6)
    return ArmLimits(limits.lower, limits.upper, endless, endless, limits.box, 1e6, math.pi, -1.0)


def tool_points(robot: Robot) -> Array:
    """Corners [P, 3] of hand and open fingers relative to the tool center point, tool axes, m.

    Shapes other than boxes are replaced by their bounding boxes.
    """
    gripper, half = robot.gripper, robot.opening / 2
    boxes = []
    for shape in gripper.shapes:
        a, b = np.array(shape.a), np.array(shape.b)
        low, high = (
            (a - b, a + b) if shape.radius is None else (np.minimum(a, b) - shape.radius, np.maximum(a, b) + shape.radius)
        )
        if shape.flat:  # a cylinder ends at its ends
            along = np.argmax(np.abs(b - a))
            low[along], high[along] = min(a[along], b[along]), max(a[along], b[along])
        boxes.append((low, high))
    wide, thick = gripper.finger_half_width, half + gripper.finger_thickness
    x, y = gripper.tcp[:2]
    boxes.append((np.array([x - wide, y - thick, gripper.finger_base]), np.array([x + wide, y + thick, gripper.finger_tip])))
    corners = [np.where(np.array(pick, dtype=bool), high, low) for low, high in boxes for pick in np.ndindex(2, 2, 2)]
    return np.stack(corners) - np.array(gripper.tcp)


def alike(a: ArmLimits, b: ArmLimits) -> bool:
    """Whether an arm moves alike within both limits: up to the insets of a safety layer, and the ends of the joints' ranges."""
    if a.obstacles[0].shape != b.obstacles[0].shape:
        return False

    def near(x: Array | float, y: Array | float, most: float) -> bool:
        return bool((np.abs(np.asarray(x) - y) <= most).all())

    def equal(x: Array | float, y: Array | float) -> bool:
        return bool((np.abs(np.asarray(x) / y - 1) <= 0.01).all())

    return (
        near(a.box[0], b.box[0], 0.02)  # the clearance of the fingers is what bounds the height
        and near(a.box[1], b.box[1], 0.02)
        and near(a.tilt, b.tilt, 0.02)
        and near(a.clearance, b.clearance, 0.005)
        and near(a.lower, b.lower, 0.2)
        and near(a.upper, b.upper, 0.2)
        and all(near(x, y, 0.005) for x, y in zip(a.obstacles, b.obstacles, strict=True))
        and equal(a.velocity, b.velocity)
        and equal(a.acceleration, b.acceleration)
        and equal(a.tcp_speed, b.tcp_speed)
    )
