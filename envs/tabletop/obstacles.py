"""Declared boxes of a robot file in the tabletop: where they cannot stand."""

from __future__ import annotations

import mujoco
import numpy as np

from rpd.envs.control.arm_limits import ArmLimits
from rpd.envs.errors import ConfigError
from rpd.envs.robots import Robot
from rpd.envs.tabletop import episode_start
from rpd.envs.tabletop.mjcf import World
from rpd.envs.tabletop.tasks import Task

EPISODES = 2000
ROOM = 3.0
"""Half the edge of the space around objects and goals that is kept free, in halves of a cube."""


def check(limits: ArmLimits, world: World, task: Task, robot: Robot) -> None:
    """Refuse obstacles where a task puts its objects and goals, or where the arm starts.

    Args:
        limits: obstacles and clearance.
        world: model with the obstacles.
        task: the task.
        robot: the robot.

    Raises:
        ConfigError: names the box.
    """
    if not limits.obstacle_names:
        return
    place = episode_start.draw(np.arange(EPISODES), task, robot).placement
    points, room = np.concatenate([place.object, place.target]), ROOM * world.half
    low, high = points.min(axis=0), points.max(axis=0)
    for name, first, last in zip(limits.obstacle_names, *limits.obstacles, strict=True):
        if ((points + room > first) & (points - room < last)).all(axis=1).any():
            ranges = zip("xyz", low - room, high + room, strict=True)
            area = ", ".join(f"{axis} from {least:.2f} to {most:.2f}" for axis, least, most in ranges)
            raise ConfigError(
                f"env.limits: limits.boxes.{name} stands where {task.name} puts objects and goals, {area} m: train without it"
            )
    for name, distance in zip(limits.obstacle_names, _at_start(world, robot), strict=True):
        if distance < limits.clearance:
            raise ConfigError(
                f"env.limits: limits.boxes.{name} is {1000 * distance:.0f} mm from the arm where episodes start, and "
                f"limits.clearance is {1000 * limits.clearance:.0f} mm: train without it"
            )


def _at_start(world: World, robot: Robot) -> np.ndarray:
    """Distances [B] of the obstacles from the arm at the start of an episode, m; inf beyond the sensors' range."""
    data = mujoco.MjData(world.model)
    data.qpos[world.arm], data.qpos[world.fingers] = robot.home, robot.opening / 2
    mujoco.mj_forward(world.model, data)
    found, distance = data.sensordata[4 : 2 * world.near].reshape(-1, 2).T
    return np.where(found > 0, distance, np.inf)
