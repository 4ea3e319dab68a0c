"""Actions that were commanded in a recorded episode, from the joint commands behind the safety layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rpd.datasets.episode import Array
from rpd.envs.control import kinematics
from rpd.envs.control.arm import Arm
from rpd.envs.robots import Robot


def commanded_actions(ticks: Sequence[dict[str, Any]], answered: Sequence[int], robot: Robot, scale: Sequence[float]) -> Array:
    """Convert the joint commands of an episode to actions.

    Step k lasts from the tick in which the policy's answer k is taken to the tick before the next answer, or to the last
    command. Its action is the motion of the tool center point from the last command before the step to the last command in it,
    by forward kinematics: the difference of the positions, and the rotation vector from the first to the second orientation,
    both in the base frame, divided by `scale`. The gripper is the last command for it in the step. A perfect arm that is
    asked for these actions moves as it was commanded. They are clipped to [-1, 1]: the controller may catch up with its target
    by more than one full step.

    Args:
        ticks: tick frames with ``tick`` and ``joints``; those that commanded the robot with ``command`` and ``open``, too.
        answered: numbers of the ticks in which the answers were taken, ascending; each commanded the robot.
        robot: the arm.
        scale: size of 1 of each action dimension, m and rad.

    Returns:
        [T, 7] float32, a row per answer.
    """
    commands = [tick for tick in ticks if "command" in tick]
    ends = np.searchsorted([tick["tick"] for tick in commands], answered)  # index of the first command of each step
    at_rest = next(tick["joints"] for tick in ticks if "joints" in tick)
    postures = np.stack([at_rest, *(tick["command"] for tick in commands)])  # [i]: before command i
    borders = np.append(ends, len(commands))
    position, rotation = Arm(robot).forward(postures[borders])
    quat = kinematics.mat_to_quat(rotation)
    motion = np.concatenate((np.diff(position, axis=0), kinematics.rotation_error(quat[1:], quat[:-1])), axis=1)
    opened = [1.0 if commands[end - 1]["open"] else -1.0 for end in borders[1:]]
    return np.clip(np.column_stack((motion / np.array(scale[:6]), opened)), -1, 1).astype(np.float32)
