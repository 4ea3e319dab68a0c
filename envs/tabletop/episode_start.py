"""Start of an episode as a pure function of its seed, shared by every simulator that has the tabletop's tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rpd.envs.robots import Robot
from rpd.envs.seeding import uniforms
from rpd.envs.tabletop.tasks import COLORS, Placement, Task
from rpd.envs.tabletop.tasks.base import Array

JOINT_SPREAD = 0.04  # width of the range of each joint's first position, rad


@dataclass(frozen=True)
class EpisodeStart:
    """Starts of K episodes."""

    placement: Placement
    names: NDArray[np.int64]
    """[K, 3] numbers of the phrase, of the object's color and of the target's color, see `instruction`."""
    joints: Array
    """[K, n] positions of the arm's joints, rad."""


def draw(seeds: NDArray[np.int64], task: Task, robot: Robot) -> EpisodeStart:
    """Starts of the episodes of `seeds` [K]."""
    u = uniforms(seeds, 32, stream=0)
    names = np.zeros((len(seeds), 3), dtype=np.int64)
    names[:, 0] = u[:, 8] * len(task.phrases)
    names[:, 1] = u[:, 9] * len(COLORS)
    other = (u[:, 10] * (len(COLORS) - 1)).astype(np.int64)  # never the object's own color
    names[:, 2] = other + (other >= names[:, 1])
    joints = np.array(robot.home) + (u[:, 11 : 11 + len(robot.joints)] - 0.5) * JOINT_SPREAD
    return EpisodeStart(task.place(u[:, :8], robot), names, joints)


def instruction(task: Task, names: NDArray[np.int64]) -> str:
    """Language instruction of an episode, from its row [3] of `EpisodeStart.names`."""
    colors = list(COLORS)
    phrase, thing, target = names
    return task.phrases[phrase].format(object=colors[thing], target=colors[target])
