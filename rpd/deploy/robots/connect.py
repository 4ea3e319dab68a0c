"""From a robot's file to its driver."""

from __future__ import annotations

import importlib

from envs.errors import ConfigError
from envs.specs import EnvSpec
from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Robot
from rpd.deploy.robots.sim import SimRobot


def build(config: RobotConfig, wanted: EnvSpec, host: str | None) -> Robot:
    """Make a driver; nothing is connected yet.

    Args:
        config: of the robot.
        wanted: what the policy was made for.
        host: address in place of the file's.

    Raises:
        ConfigError: an option that the driver does not have, or lacks.
    """
    connection = {**config.connection, **({"host": host} if host else {})}
    if config.driver == "sim":
        if connection:
            raise ConfigError(f"robot sim has no options of connection: leave out {', '.join(connection)}")
        cameras = tuple(key.removeprefix("image.") for key in wanted.cameras)
        size = wanted.observations[wanted.cameras[0]].shape[0] if cameras else None
        return SimRobot(wanted.task, config.kinematics, cameras, size, config.watchdog.silence)
    module = importlib.import_module(f"rpd.deploy.robots.{config.driver}")
    try:
        return module.Driver(config, **connection)
    except TypeError as error:
        raise ConfigError(f"connection of driver {config.driver}: {str(error).split(') ', 1)[-1]}") from None
