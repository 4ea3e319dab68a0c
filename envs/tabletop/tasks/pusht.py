"""PushT: push a T onto a T painted on the table, with matching orientation.

As in Diffusion Policy's Push-T (Chi et al., 2023) and ManiSkill3's PushT-v1, the T starts with any yaw and the goal has a fixed
yaw, so one angle describes the T relative to the goal, the robot and the cameras. Unlike there, the goal position is random:
a policy has to observe it, and teachers that fail for some goals can be distinguished.
"""

from __future__ import annotations

import numpy as np

from rpd.envs import pusht
from rpd.envs.robots import Robot
from rpd.envs.tabletop.tasks.base import Array, Frame, Mask, Placement, Task, far, near, norm, play_area

COVERED = 0.9  # covered fraction of the goal: success in ManiSkill3's PushT-v1
CUBE = 0.75
"""Edge of the T's cubes, as a fraction of the other tasks': 12 cm total length for most arms, within the SO-101's reach."""
MARGIN = 0.05  # overhang of the T beyond the work area, m: pushing fingers reach it, possibly tilted


def _area(robot: Robot) -> tuple[Array, Array]:
    """Corners (x, y) of the area of the T's center."""
    low, high = play_area(robot)
    corner, other = np.array(robot.workspace)
    inside = (other - corner) / 2 + MARGIN - pusht.REACH * CUBE * robot.cube_half_size
    half = np.minimum((high - low) / 2, inside)
    return (low + high) / 2 - half, (low + high) / 2 + half


def _place(u: Array, robot: Robot) -> Placement:
    low, high = _area(robot)
    lying = np.full((len(u), 1), CUBE * robot.cube_half_size)
    start = low + u[:, :2] * (high - low)
    goal = (low + high) / 2 + (u[:, 3:5] - 0.5) * (high - low) / 2
    turn = (2.0 * u[:, 2] - 1.0) * np.pi
    return Placement(np.hstack([start, lying]), turn, np.hstack([goal, lying]), np.zeros(len(u)))


def _reward(f: Frame) -> Array:
    left = pusht.displacement((f.target - f.object)[:, :2], f.turn, f.half)
    # Not the overlap: it is zero far away and has local maxima for wrong orientations nearby.
    return (far(norm(f.object - f.tcp)) + 3.0 * near(left)) / 4.0


def _covered(f: Frame) -> Mask:
    way = (f.object - f.target)[:, :2] / f.half
    done = (norm(way) < 2.0) & (f.object[:, 2] < 1.5 * f.half)  # further offset or lifted, the overlap is too small
    # The goal has zero yaw: its frame is aligned with the base frame.
    done[done] = pusht.overlap(way[done], f.turn[done]) > COVERED
    return done


TASKS = (
    Task(
        "PushT",
        "tee",
        (
            "push the {object} T onto the green T",
            "slide the {object} T-shaped block until it covers the green T",
            "push and turn the {object} T so that it lies on the green target",
        ),
        _place,
        _reward,
        _covered,
        thing="tee",
        cube=CUBE,
        max_steps=200,
    ),
)
