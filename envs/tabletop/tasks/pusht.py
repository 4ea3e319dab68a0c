"""PushT: a T is pushed onto a T that is painted on the table, and turned as that is.

As in Diffusion Policy's Push-T (Chi et al., 2023) and ManiSkill3's PushT-v1 the T starts turned any way, and its goal is always
turned the same way: one angle then says how it is turned against the goal, the robot and the cameras. Other than there, the
place of the goal is drawn: it has to be looked for, and tells episodes apart for teachers that fail in some of them.
"""

from __future__ import annotations

import numpy as np

from envs import tee
from envs.tabletop.robots import Robot
from envs.tabletop.tasks.base import Array, Frame, Mask, Placement, Task, far, near, norm, play_area

COVERED = 0.9  # of the goal: success in ManiSkill3's PushT-v1
CUBE = 0.75
"""Edge of the T's cubes, as a fraction of the other tasks': it is 12 cm long for most arms, and within the SO-101's reach."""
MARGIN = 0.05  # m that a T may stick out of the work area: fingers that push get there, though they may lean


def _area(robot: Robot) -> tuple[Array, Array]:
    """Corners (x, y) of where the T's centre may be."""
    low, high = play_area(robot)
    corner, other = np.array(robot.workspace)
    inside = (other - corner) / 2 + MARGIN - tee.REACH * CUBE * robot.cube_half_size
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
    left = tee.displacement((f.target - f.object)[:, :2], f.turn, f.half)
    # Not the overlap: far away it is zero, and nearer it has maxima where the T is turned the wrong way.
    return (far(norm(f.object - f.tcp)) + 3.0 * near(left)) / 4.0


def _covered(f: Frame) -> Mask:
    way = (f.object - f.target)[:, :2] / f.half
    done = (norm(way) < 2.0) & (f.object[:, 2] < 1.5 * f.half)  # a cube's edge aside or lifted, it covers too little
    # The goal is not turned: its frame is the base's.
    done[done] = tee.overlap(way[done], f.turn[done]) > COVERED
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
