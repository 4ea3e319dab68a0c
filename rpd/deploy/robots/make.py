"""Construction of drivers, unconnected, by the name in a robot file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rpd.deploy.config import DRIVERS, RobotConfig
from rpd.deploy.robots import user_driver
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.driver_names import is_file
from rpd.envs.errors import ConfigError


def make(config: RobotConfig, host: str | None) -> RobotDriver:
    """Make a driver, unconnected, other than that of robot sim.

    Args:
        config: config of the robot.
        host: address that overrides the file's.

    Raises:
        ConfigError: an unknown or missing argument of the driver.
    """
    build = user_driver.build if is_file(config.driver) else _shipped
    return build(config.driver, config, connection(config, host))


def connection(config: RobotConfig, host: str | None) -> dict[str, Any]:
    """Arguments of a driver: those of its robot file, and the address on the command line."""
    return {**config.connection, **({"host": host} if host else {})}


def _shipped(name: str, config: RobotConfig, connection: Mapping[str, Any]) -> RobotDriver:
    """Make a driver of this package.

    Raises:
        ConfigError: an unknown or missing argument.
    """
    module, _, class_name = DRIVERS[name].partition(":")
    made = getattr(importlib.import_module(module), class_name)
    try:
        return made(config, **connection)
    except TypeError as error:
        raise ConfigError(f"connection of driver {name}: {str(error).split(') ', 1)[-1]}") from None
