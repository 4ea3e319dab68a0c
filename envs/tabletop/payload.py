"""Payload of the arm against the mass of a task's object."""

from __future__ import annotations

from rpd.envs.errors import ConfigError
from rpd.envs.robots import Robot
from rpd.envs.tabletop.domain_randomization import MAX_MASS
from rpd.envs.tabletop.mjcf import World


def check(world: World, robot: Robot, randomized: frozenset[str]) -> None:
    """Refuse an object that is too heavy for the arm.

    Args:
        world: model of the task.
        robot: the robot; without a published payload everything is accepted.
        randomized: randomized conditions.

    Raises:
        ConfigError: names both masses.
    """
    if robot.payload is None or world.object_qpos is None:
        return
    thing = float(world.model.body("object").mass[0]) * (MAX_MASS if "mass" in randomized else 1.0)
    gripper = robot.gripper.mass + 2 * robot.gripper.finger_mass
    if gripper + thing > robot.payload:
        raise ConfigError(
            f"robot {robot.name} carries {robot.payload:g} kg: its gripper of {gripper:g} kg with an object of up to "
            f"{thing:g} kg is heavier"
        )
