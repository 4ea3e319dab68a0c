"""Robots of primitive shapes with their true kinematics, by name."""

from envs.tabletop.robots.base import Robot
from envs.tabletop.robots.panda import PANDA
from envs.tabletop.robots.so101 import SO101
from envs.tabletop.robots.ur5e import UR5E
from envs.tabletop.robots.ur5e_slow import UR5E_SLOW
from envs.tabletop.robots.ur10e import UR10E
from envs.tabletop.robots.xarm6 import XARM6

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (PANDA, XARM6, UR5E, SO101, UR10E, UR5E_SLOW)}

__all__ = ["ROBOTS", "Robot"]
