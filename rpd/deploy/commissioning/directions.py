"""Directions of motions in words, for a person who watches an arm."""

from __future__ import annotations

import numpy as np

from rpd.envs.control.arm import Arm, Array

WORDS = (("away from the base", "toward the base"), ("to the left", "to the right"), ("up", "down"))
"""Positive and negative direction of x, y and z of the base frame, for a person behind the base."""
VISIBLE = 0.01
"""Smallest motion of the tool that is easy to see, m; below it the turn of the fingers is described."""
TURN = 0.05
"""Smallest turn of the fingers that is easy to see, rad."""


def of_motion(arm: Arm, start: Array, goal: Array) -> str:
    """Describe the motion of the tool between two postures: its main direction, or the turn of the fingers.

    Args:
        arm: kinematics of the arm.
        start: [n] rad.
        goal: [n] rad.
    """
    position, rotation = arm.forward(np.stack([start, goal]))
    way = position[1] - position[0]
    turn = np.arctan2(*(rotation[0].T @ rotation[1])[[1, 0], [0, 0]])  # about z, out of the gripper, away from the viewer
    if np.abs(way).max() < VISIBLE and abs(turn) > TURN:
        way_round = "clockwise" if turn > 0 else "counter-clockwise"
        return f"the fingers turn {way_round}, seen from the wrist, by {np.degrees(abs(turn)):.0f}°"
    axis = int(np.abs(way).argmax())
    return f"the tool moves {WORDS[axis][0 if way[axis] > 0 else 1]}, by {100 * abs(way[axis]):.1f} cm"
