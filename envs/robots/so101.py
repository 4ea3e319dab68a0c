"""SO-101 follower arm (LeRobot): 5 joints; its swinging jaw is simplified to two parallel fingers with 70 mm opening.

Velocity: the servo's 60 degrees in 0.222 s; acceleration: the largest value of its register, 254 x 100 steps/s^2, as LeRobot
sets it; speed of the tool: the fastest joint at full reach. Jerk, payload and the force of the jaw are not published.
Kinematics, joint ranges and masses: the public model of The Robot Studio (so101_new_calib); the tool center point is its
`gripperframe`. With five joints the gripper points down anywhere with any yaw but cannot tilt sideways.
"""

from __future__ import annotations

from rpd.envs.robots.base import Gripper, Link, Robot, Shape

ORANGE = (0.96, 0.55, 0.12, 1.0)
SERVO = (0.12, 0.12, 0.13, 1.0)
HALF = 0.5**0.5

SO101 = Robot(
    name="so101",
    base=(Shape((0.015, 0, 0.03), (0.045, 0.032, 0.03), None, ORANGE),),
    links=(
        Link(
            "shoulder_pan", (0.0388353, 0, 0.0624), (0, 0, 1, 0), (-1.91986, 1.91986), 4.7, 3.35, 58, 2.2, 0.028, 0.1,
            (Shape((-0.025, 0, -0.033), (0.03, 0.024, 0.03), None, SERVO),),
        ),
        Link(
            "shoulder_lift", (-0.0303992, -0.0182778, -0.0542), (0.5, -0.5, -0.5, -0.5), (-1.74533, 1.74533),
            4.7, 3.35, 58, 2.2, 0.028, 0.103,
            (Shape((0, 0, 0.0182), (-0.095, -0.02, 0.0182), 0.019, ORANGE),
             Shape((-0.11257, -0.028, -0.002), (-0.11257, -0.028, 0.038), 0.017, SERVO)),
        ),
        Link(
            "elbow_flex", (-0.11257, -0.028, 0), (HALF, 0, 0, HALF), (-1.69, 1.69), 4.7, 3.35, 54, 2.0, 0.028, 0.104,
            (Shape((-0.01, 0, 0.0182), (-0.115, 0.004, 0.0182), 0.018, ORANGE),
             Shape((-0.1349, 0.0052, -0.002), (-0.1349, 0.0052, 0.038), 0.016, SERVO)),
        ),
        Link(
            "wrist_flex", (-0.1349, 0.0052, 0), (HALF, 0, 0, -HALF), (-1.65806, 1.65806), 4.7, 3.35, 47, 1.75, 0.028, 0.079,
            (Shape((0, -0.012, 0.0181), (0, -0.045, 0.0181), 0.02, ORANGE),),
        ),
        Link(
            "wrist_roll", (0, -0.0611, 0.0181), (0.0172091, -0.0172091, 0.706897, 0.706897), (-2.74385, 2.84121),
            4.7, 3.35, 45, 1.7, 0.028, 0.04,
            (Shape((0, 0, 0), (0, 0, -0.02), 0.02, SERVO, flat=True),),
        ),
    ),
    gripper=Gripper(
        pos=(0, 0, 0),
        quat=(0, HALF, HALF, 0),  # the jaw opens along the link's x, fingers point along its -z
        tcp=(-0.000218121, -0.0079, 0.0981274),
        finger_base=0.05,
        finger_tip=0.105,
        finger_half_width=0.009,
        finger_thickness=0.007,
        mass=0.047,
        shapes=(Shape((0, -0.0079, 0.035), (0.014, 0.042, 0.015), None, ORANGE),),
        finger_rgba=SERVO,
        speed=0.085,
        finger_mass=0.012,
    ),
    opening=0.07,
    home=(-0.00234, -0.20653, 0.34367, 1.43365, 0.04634),  # the jaw opens along x: the center of the wrist's range
    max_delta_pos=0.02,
    max_delta_rot=0.15,
    workspace=((0.16, -0.08), (0.24, 0.08)),
    max_height=0.07,
    reach=0.4,
    acceleration=(39.0,) * 5,
    tcp_speed=1.9,
    cube_half_size=0.0125,
    rot_weight=0.03,
)  # fmt: skip
