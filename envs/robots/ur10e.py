"""Universal Robots UR10e with two parallel fingers like the Robotiq 2F-85: 6 joints, reach 1.3 m, 85 mm opening.

Kinematics and limits: the manufacturer's DH parameters in the ROS convention (REP 103), as for the UR5e. Masses: the
manufacturer's dynamic parameters; payload: its data sheet; acceleration and speed of the tool as for the UR5e. Its workspace is
half as far again from the base as the others'.
"""

from __future__ import annotations

import math

from rpd.envs.robots.base import IDENTITY, RX90, RX_90, Link, Robot, Shape
from rpd.envs.robots.ur5e import UR5E

TUBE = (0.70, 0.72, 0.74, 1.0)
CAP = (0.22, 0.36, 0.52, 1.0)
TURN = 2 * math.pi
FAST, SLOW = math.pi, 2 * math.pi / 3

UR10E = Robot(
    name="ur10e",
    base=(Shape((0, 0, 0), (0, 0, 0.10), 0.095, TUBE, flat=True),),
    links=(
        Link(
            "shoulder_pan_joint", (0, 0, 0.1807), (0, 0, 0, 1), (-TURN, TURN), SLOW, 330, 7170, 269, 0.4, 7.369,
            (Shape((0, 0, -0.08), (0, 0, 0), 0.08, TUBE),),
        ),
        Link(
            "shoulder_lift_joint", (0, 0, 0), RX90, (-TURN, TURN), SLOW, 330, 9670, 363, 0.4, 13.051,
            (Shape((0, 0, 0.05), (0, 0, 0.20), 0.078, CAP), Shape((0, 0, 0.176), (-0.6127, 0, 0.176), 0.062, TUBE)),
        ),
        Link(
            "elbow_joint", (-0.6127, 0, 0), IDENTITY, (-math.pi, math.pi), FAST, 150, 4780, 179, 0.4, 3.989,
            (Shape((0, 0, 0.02), (0, 0, 0.19), 0.065, CAP), Shape((0, 0, 0.04), (-0.57155, 0, 0.04), 0.05, TUBE)),
        ),
        Link(
            "wrist_1_joint", (-0.57155, 0, 0.17415), IDENTITY, (-TURN, TURN), FAST, 56, 281, 10.5, 0.1, 2.1,
            (Shape((0, 0, -0.13), (0, 0, 0.02), 0.05, CAP),),
        ),
        Link(
            "wrist_2_joint", (0, -0.11985, 0), RX90, (-TURN, TURN), FAST, 56, 217, 8.1, 0.1, 1.98,
            (Shape((0, 0, -0.09), (0, 0, 0.01), 0.05, CAP),),
        ),
        Link(
            "wrist_3_joint", (0, 0.11655, 0), RX_90, (-TURN, TURN), FAST, 56, 163, 6.1, 0.1, 0.615,
            (Shape((0, 0, -0.08), (0, 0, 0), 0.045, CAP, flat=True),),
        ),
    ),
    gripper=UR5E.gripper,
    opening=0.085,
    home=(-0.21944, -1.24491, 1.86600, -2.19189, -math.pi / 2, -1.79024),
    max_delta_pos=0.04,
    max_delta_rot=0.15,
    workspace=((0.65, -0.25), (0.95, 0.25)),
    max_height=0.27,
    reach=1.3,
    acceleration=(5.0,) * 6,
    tcp_speed=1.0,
    cube_half_size=0.02,
    rot_weight=0.2,
    payload=12.5,
)  # fmt: skip
