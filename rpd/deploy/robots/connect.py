"""Construction of the driver of a robot file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rpd.deploy.config import DRIVERS, RobotConfig
from rpd.deploy.robots import user_driver
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.device_thread import DeviceThread
from rpd.deploy.robots.driver_names import is_file
from rpd.deploy.robots.sim import SimDriver
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec, Settings


def build(config: RobotConfig, wanted: EnvSpec | None, host: str | None) -> RobotDriver:
    """Make a driver, unconnected. That of a real robot is called from a thread of its own, see `DeviceThread`.

    Args:
        config: config of the robot.
        wanted: spec of the policy, for robot sim; the other drivers do not depend on it.
        host: address that overrides the file's.

    Raises:
        ConfigError: an unknown or missing argument of the driver.
    """
    connection = {**config.connection, **({"host": host} if host else {})}
    if config.driver == "sim":
        if connection:
            raise ConfigError(f"robot sim has no connection options: leave out {', '.join(connection)}")
        assert wanted is not None, "robot sim simulates a task"
        cameras = tuple(key.removeprefix("image.") for key in wanted.cameras)
        size = wanted.observations[wanted.cameras[0]].shape[0] if cameras else None
        limits = (wanted.settings or Settings()).limits
        return SimDriver(wanted.task, config.kinematics, cameras, size, config.watchdog.command_timeout, limits)
    make = user_driver.build if is_file(config.driver) else _shipped
    driver = make(config.driver, config, connection)
    return DeviceThread(driver, 1 / config.rate, config.watchdog.observation_age) if driver.spec.real else driver


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
