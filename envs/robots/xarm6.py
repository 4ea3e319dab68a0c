"""UFACTORY xArm6 with the xArm gripper as two parallel fingers: 6 joints, 85 mm opening.

Kinematics, limits and link masses: the manufacturer's public URDF (xarm_description; gripper: 2 rad/s over 0.85 rad).
Acceleration: the limit of its SDK, 20 rad/s^2; user manual: speed of the tool 1 m/s, payload 5 kg, gripper 30 N. Jerk is not
published.
"""

from __future__ import annotations

import math

from rpd.envs.robots.base import IDENTITY, RX90, RX_90, Gripper, Link, Robot, Shape

SHELL = (0.80, 0.81, 0.83, 1.0)
SILVER = (0.55, 0.57, 0.60, 1.0)
DARK = (0.14, 0.14, 0.15, 1.0)
TURN = 2 * math.pi

XARM6 = Robot(
    name="xarm6",
    base=(Shape((0, 0, 0), (0, 0, 0.13), 0.063, SHELL, flat=True),),
    links=(
        Link(
            "joint1", (0, 0, 0.267), IDENTITY, (-TURN, TURN), 3.14, 50, 950, 36, 0.2, 2.38,
            (Shape((0, 0, -0.13), (0, 0, -0.05), 0.058, SHELL),),
        ),
        Link(
            "joint2", (0, 0, 0), RX_90, (-2.059, 2.0944), 3.14, 50, 1400, 52, 0.2, 2.27,
            (Shape((0, 0, -0.06), (0, 0, 0.06), 0.055, SILVER), Shape((0, 0, 0), (0.0535, -0.2845, 0), 0.045, SHELL)),
        ),
        Link(
            "joint3", (0.0535, -0.2845, 0), IDENTITY, (-3.927, 0.19198), 3.14, 32, 1070, 40, 0.15, 1.88,
            (Shape((0, 0, -0.05), (0, 0, 0.05), 0.05, SILVER), Shape((0, 0, 0), (0.0775, 0.16, 0), 0.042, SHELL)),
        ),
        Link(
            "joint4", (0.0775, 0.3425, 0), RX_90, (-TURN, TURN), 3.14, 32, 147, 5.5, 0.08, 1.32,
            (Shape((0, 0, -0.18), (0, 0, -0.03), 0.042, SHELL),),
        ),
        Link(
            "joint5", (0, 0, 0), RX90, (-1.69297, math.pi), 3.14, 32, 178, 6.7, 0.08, 1.34,
            (Shape((0, 0, -0.045), (0, 0, 0.045), 0.042, SILVER), Shape((0, 0, 0), (0.076, 0.03, 0), 0.038, SHELL)),
        ),
        Link(
            "joint6", (0.076, 0.097, 0), RX_90, (-TURN, TURN), 3.14, 20, 82, 3.1, 0.05, 0.17,
            (Shape((0, 0, -0.05), (0, 0, 0), 0.036, SILVER, flat=True),),
        ),
    ),
    gripper=Gripper(
        pos=(0, 0, 0),
        quat=IDENTITY,
        tcp=(0, 0, 0.172),
        finger_base=0.1,
        finger_tip=0.181,
        finger_half_width=0.011,
        finger_thickness=0.012,
        mass=0.7,
        shapes=(Shape((0, 0, 0.05), (0.034, 0.062, 0.05), None, SHELL),),
        finger_rgba=DARK,
        speed=0.1,
        max_force=30,
    ),
    opening=0.085,
    home=(0.0, -0.2319, -0.74577, 0.0, 0.97767, 0.0),
    max_delta_pos=0.03,
    max_delta_rot=0.15,
    workspace=((0.28, -0.2), (0.5, 0.2)),
    max_height=0.27,
    reach=0.7,
    acceleration=(20.0,) * 6,
    tcp_speed=1.0,
    cube_half_size=0.02,
    rot_weight=0.2,
    payload=5.0,
)  # fmt: skip
