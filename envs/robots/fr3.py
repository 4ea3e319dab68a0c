"""Franka Research 3 with the Franka hand: the Panda's geometry with ranges and limits of its own.

Limits: Franka's control documentation (limits for Franka Research 3).
"""

from __future__ import annotations

from dataclasses import replace

from rpd.envs.robots.panda import PANDA

_RANGES = (
    (-2.7437, 2.7437), (-1.7837, 1.7837), (-2.9007, 2.9007), (-3.0421, -0.1518), (-2.8065, 2.8065), (0.5445, 4.5169),
    (-3.0159, 3.0159),
)  # fmt: skip
_VELOCITIES = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)

FR3 = replace(
    PANDA,
    name="fr3",
    links=tuple(
        replace(link, joint=link.joint.replace("panda", "fr3"), limits=limits, velocity=velocity)
        for link, limits, velocity in zip(PANDA.links, _RANGES, _VELOCITIES, strict=True)
    ),
    acceleration=(10.0,) * 7,
    tcp_speed=3.0,
    jerk=(5000.0,) * 7,
)
