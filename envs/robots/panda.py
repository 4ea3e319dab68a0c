"""Franka Emika Panda with the Franka hand: 7 joints, 80 mm opening.

Kinematics: modified DH parameters and limits from Franka's control documentation (joint velocity, acceleration and jerk,
Cartesian velocity); data sheets: payload, and the hand's 50 mm/s per finger and 70 N (continuous). Masses from the identified
dynamics in the public URDF.
"""

from __future__ import annotations

import math

from rpd.envs.robots.base import IDENTITY, RX90, RX_90, Gripper, Link, Robot, Shape

WHITE = (0.93, 0.93, 0.92, 1.0)
GREY = (0.35, 0.36, 0.38, 1.0)
DARK = (0.16, 0.16, 0.17, 1.0)

PANDA = Robot(
    name="panda",
    base=(Shape((-0.02, 0, 0), (-0.02, 0, 0.14), 0.085, WHITE, flat=True),),
    links=(
        Link(
            "panda_joint1", (0, 0, 0.333), IDENTITY, (-2.8973, 2.8973), 2.175, 87, 2000, 75, 0.2, 4.97,
            (Shape((0, 0, -0.18), (0, 0, -0.06), 0.065, WHITE),),
        ),
        Link(
            "panda_joint2", (0, 0, 0), RX_90, (-1.7628, 1.7628), 2.175, 87, 2800, 106, 0.2, 0.65,
            (Shape((0, 0, -0.06), (0, 0, 0.06), 0.065, WHITE),),
        ),
        Link(
            "panda_joint3", (0, -0.316, 0), RX90, (-2.8973, 2.8973), 2.175, 87, 1800, 69, 0.2, 3.23,
            (Shape((0, 0, -0.26), (0, 0, -0.05), 0.06, WHITE), Shape((0.0825, -0.05, 0), (0.0825, 0.05, 0), 0.058, WHITE)),
        ),
        Link(
            "panda_joint4", (0.0825, 0, 0), RX90, (-3.0718, -0.0698), 2.175, 87, 1700, 63, 0.2, 3.59,
            (Shape((-0.01, 0.01, 0), (-0.0825, 0.09, 0), 0.055, WHITE),),
        ),
        Link(
            "panda_joint5", (-0.0825, 0.384, 0), RX_90, (-2.8973, 2.8973), 2.61, 12, 100, 3.7, 0.05, 1.23,
            (Shape((0, 0, -0.26), (0, 0.03, -0.03), 0.05, WHITE),),
        ),
        Link(
            "panda_joint6", (0, 0, 0), RX90, (-0.0175, 3.7525), 2.61, 12, 140, 5.3, 0.05, 1.67,
            (Shape((0, 0, -0.06), (0, 0, 0.05), 0.048, WHITE), Shape((0, 0, 0), (0.088, 0, 0), 0.046, WHITE)),
        ),
        Link(
            "panda_joint7", (0.088, 0, 0), RX90, (-2.8973, 2.8973), 2.61, 12, 86, 3.2, 0.05, 0.74,
            (Shape((0, 0, 0.02), (0, 0, 0.107), 0.042, GREY, flat=True),),
        ),
    ),
    gripper=Gripper(
        pos=(0, 0, 0.107),
        quat=(math.cos(math.pi / 8), 0, 0, -math.sin(math.pi / 8)),  # the hand is mounted at -45 degrees
        tcp=(0, 0, 0.1034),
        finger_base=0.0584,
        finger_tip=0.112,
        finger_half_width=0.0105,
        finger_thickness=0.014,
        mass=0.73,
        shapes=(Shape((0, 0, 0.03), (0.031, 0.1, 0.03), None, WHITE),),
        finger_rgba=DARK,
        speed=0.05,
        max_force=70,
    ),
    opening=0.08,
    home=(0.0, 0.12895, 0.0, -2.39531, 0.0, 2.52424, math.pi / 4),
    max_delta_pos=0.03,
    max_delta_rot=0.15,
    workspace=((0.35, -0.25), (0.65, 0.25)),
    max_height=0.27,
    reach=0.855,
    acceleration=(15, 7.5, 10, 12.5, 15, 20, 20),
    tcp_speed=1.7,
    cube_half_size=0.02,
    rot_weight=0.2,
    jerk=(7500, 3750, 5000, 6250, 7500, 10_000, 10_000),
    payload=3.0,
)  # fmt: skip
