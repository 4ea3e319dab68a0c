"""Universal Robots UR5e with two parallel fingers like the Robotiq 2F-85: 6 joints, 85 mm opening.

Kinematics and limits: the manufacturer's DH parameters in the ROS convention (REP 103): the base frame is rotated by 180
degrees relative to the controller's, so that the arm faces +x at zero pan. Masses: the manufacturer's dynamic parameters.
The manufacturer limits torque, not acceleration: 5 rad/s^2 is that of its own motion planning (ur_moveit_config). 1 m/s is the
data sheet's typical speed of the tool, and 5 kg its payload; fingers: 150 mm/s of opening and 235 N (Robotiq's data sheet). A
limit of jerk is not published.
"""

from __future__ import annotations

import math

from rpd.envs.robots.base import IDENTITY, RX90, RX_90, Gripper, Link, Robot, Shape

TUBE = (0.62, 0.68, 0.75, 1.0)
CAP = (0.30, 0.45, 0.60, 1.0)
DARK = (0.13, 0.13, 0.14, 1.0)
TURN = 2 * math.pi

UR5E = Robot(
    name="ur5e",
    base=(Shape((0, 0, 0), (0, 0, 0.09), 0.075, TUBE, flat=True),),
    links=(
        Link(
            "shoulder_pan_joint", (0, 0, 0.1625), (0, 0, 0, 1), (-TURN, TURN), math.pi, 150, 2020, 76, 0.2, 3.761,
            (Shape((0, 0, -0.07), (0, 0, 0), 0.062, TUBE),),
        ),
        Link(
            "shoulder_lift_joint", (0, 0, 0), RX90, (-TURN, TURN), math.pi, 150, 3080, 115, 0.2, 8.058,
            (Shape((0, 0, 0.04), (0, 0, 0.16), 0.06, CAP), Shape((0, 0, 0.138), (-0.425, 0, 0.138), 0.05, TUBE)),
        ),
        Link(
            "elbow_joint", (-0.425, 0, 0), IDENTITY, (-math.pi, math.pi), math.pi, 150, 1820, 68, 0.2, 2.846,
            (Shape((0, 0, 0.015), (0, 0, 0.15), 0.052, CAP), Shape((0, 0, 0.015), (-0.3922, 0, 0.015), 0.042, TUBE)),
        ),
        Link(
            "wrist_1_joint", (-0.3922, 0, 0.1333), IDENTITY, (-TURN, TURN), math.pi, 28, 236, 8.8, 0.1, 1.37,
            (Shape((0, 0, -0.12), (0, 0, 0.02), 0.043, CAP),),
        ),
        Link(
            "wrist_2_joint", (0, -0.0997, 0), RX90, (-TURN, TURN), math.pi, 28, 203, 7.6, 0.1, 1.3,
            (Shape((0, 0, -0.08), (0, 0, 0.01), 0.042, TUBE),),
        ),
        Link(
            "wrist_3_joint", (0, 0.0996, 0), RX_90, (-TURN, TURN), math.pi, 28, 162, 6.1, 0.1, 0.365,
            (Shape((0, 0, -0.07), (0, 0, 0), 0.038, CAP, flat=True),),
        ),
    ),
    gripper=Gripper(
        pos=(0, 0, 0),
        quat=IDENTITY,
        tcp=(0, 0, 0.152),
        finger_base=0.095,
        finger_tip=0.163,
        finger_half_width=0.011,
        finger_thickness=0.012,
        mass=0.8,
        shapes=(Shape((0, 0, 0), (0, 0, 0.05), 0.036, DARK, flat=True), Shape((0, 0, 0.07), (0.03, 0.06, 0.025), None, DARK)),
        finger_rgba=(0.25, 0.25, 0.27, 1.0),
        speed=0.075,
        max_force=235,
    ),
    opening=0.085,
    home=(-0.26986, -1.49757, 1.95941, -2.03263, -math.pi / 2, -1.84066),
    max_delta_pos=0.03,
    max_delta_rot=0.15,
    workspace=((0.35, -0.25), (0.65, 0.25)),
    max_height=0.27,
    reach=0.85,
    acceleration=(5.0,) * 6,
    tcp_speed=1.0,
    cube_half_size=0.02,
    rot_weight=0.2,
    payload=5.0,
)  # fmt: skip
