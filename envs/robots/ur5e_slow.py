"""UR5e variant that is hard to control: a quarter of the stiffness, 100 ms command delay, two thirds of the speed.

Kinematics and masses are those of the UR5e, so that only the dynamics differ for a policy.
"""

from __future__ import annotations

from dataclasses import replace

from rpd.envs.robots.ur5e import UR5E

# A quarter of the stiffness halves the natural frequency to 20 rad/s; half the damping keeps the damping ratio.
STIFFNESS, DAMPING = 0.25, 0.5

UR5E_SLOW = replace(
    UR5E,
    name="ur5e_slow",
    links=tuple(replace(link, kp=STIFFNESS * link.kp, kv=DAMPING * link.kv) for link in UR5E.links),
    max_delta_pos=0.02,
    max_delta_rot=0.1,
    delay=2,
    patience=2.0,
)
