"""Robots by name: true kinematics with primitive shapes."""

from rpd.envs.robots.base import Robot
from rpd.envs.robots.fr3 import FR3
from rpd.envs.robots.panda import PANDA
from rpd.envs.robots.so101 import SO101
from rpd.envs.robots.ur5e import UR5E
from rpd.envs.robots.ur5e_slow import UR5E_SLOW
from rpd.envs.robots.ur10e import UR10E
from rpd.envs.robots.xarm6 import XARM6

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (PANDA, FR3, XARM6, UR5E, SO101, UR10E, UR5E_SLOW)}

__all__ = ["ROBOTS", "Robot"]
