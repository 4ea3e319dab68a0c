"""Robots of primitive shapes with their true kinematics, by name."""

from envs.tabletop.robots.base import Robot
from envs.tabletop.robots.panda import PANDA

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (PANDA,)}

__all__ = ["ROBOTS", "Robot"]
