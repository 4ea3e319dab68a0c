"""The driver of a robot file, as a deployment uses it."""

from __future__ import annotations

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.device import DeviceProcess
from rpd.deploy.robots.make import connection, make
from rpd.deploy.robots.sim import SimDriver
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS
from rpd.envs.specs import EnvSpec, Settings


def build(config: RobotConfig, wanted: EnvSpec | None, host: str | None, stepped: bool = False) -> RobotDriver:
    """Make a driver, unconnected. That of a real robot is connected in a process of its own, see `DeviceProcess`.

    Args:
        config: config of the robot.
        wanted: spec of the policy, for simulated robots; the other drivers do not depend on it.
        host: address that overrides the file's.
        stepped: simulated time, see `rpd.deploy.clock`; of simulated robots alone.

    Raises:
        ConfigError: an unknown or missing argument of the driver, or it has no simulated time.
    """
    if config.driver in SIMULATORS:
        assert wanted is not None, "a simulated robot has a task"
        cameras = {key.removeprefix("image."): wanted.viewpoints.get(key) for key in wanted.cameras}
        size = wanted.observations[wanted.cameras[0]].shape[0] if cameras else None
        options = connection(config, host)
        limits, silence = (wanted.settings or Settings()).limits, config.watchdog.command_timeout
        return SimDriver(wanted.task, config.kinematics, cameras, size, silence, limits, config.driver, stepped, options)
    if stepped:
        raise ConfigError(f"driver {config.driver} has no simulated time, only {', '.join(SIMULATORS)}: leave out --stepped")
    driver = make(config, host)
    return DeviceProcess(driver, config, host) if driver.spec.real else driver
