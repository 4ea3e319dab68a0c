"""Check of a robot driver against its robot file."""

from __future__ import annotations

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import RobotDriver
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS


def check_fits(robot: RobotDriver, config: RobotConfig) -> None:
    """Raise if a robot does not match its file.

    Args:
        robot: driver; for robot sim connected, because its spec is known only then.
        config: config of the robot.

    Raises:
        ConfigError: states the difference.
    """
    low, high = robot.spec.rates
    if not low <= config.rate <= high:
        raise ConfigError(f"robot {robot.spec.name} takes {low:g} to {high:g} commands per second, not {config.rate:g}")
    body = ROBOTS[config.kinematics]
    if len(robot.spec.joints) != len(body.joints):
        raise ConfigError(f"robot {robot.spec.name} has {len(robot.spec.joints)} joints, and {body.name} {len(body.joints)}")
    if (config.limits.max_contact_force is None) != (robot.spec.effort is None):
        needed = "null" if robot.spec.effort is None else f"a limit in {robot.spec.effort}"
        raise ConfigError(
            f"limits.max_contact_force has to be {needed}: robot {robot.spec.name} reports {robot.spec.effort or 'none'}"
        )
