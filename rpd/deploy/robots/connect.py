"""The driver of a robot file, as a deployment uses it."""

from __future__ import annotations

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.device import DeviceProcess
from rpd.deploy.robots.make import connection, make
from rpd.deploy.robots.sim import SimDriver
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec, Settings


def build(config: RobotConfig, wanted: EnvSpec | None, host: str | None) -> RobotDriver:
    """Make a driver, unconnected. That of a real robot is connected in a process of its own, see `DeviceProcess`.

    Args:
        config: config of the robot.
        wanted: spec of the policy, for robot sim; the other drivers do not depend on it.
        host: address that overrides the file's.

    Raises:
        ConfigError: an unknown or missing argument of the driver.
    """
    if config.driver == "sim":
        if options := connection(config, host):
            raise ConfigError(f"robot sim has no connection options: leave out {', '.join(options)}")
        assert wanted is not None, "robot sim simulates a task"
        cameras = tuple(key.removeprefix("image.") for key in wanted.cameras)
        size = wanted.observations[wanted.cameras[0]].shape[0] if cameras else None
        limits = (wanted.settings or Settings()).limits
        return SimDriver(wanted.task, config.kinematics, cameras, size, config.watchdog.command_timeout, limits)
    driver = make(config, host)
    return DeviceProcess(driver, config, host) if driver.spec.real else driver
