"""Robot files: driver, limits and cameras. A missing limit is an error, never "no limit"."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rpd.deploy.collision import RESOLUTION
from rpd.deploy.controller import INSET, INSET_ANGLE
from rpd.deploy.robots.driver_names import absolute, is_file
from rpd.envs.control.arm_limits import ArmLimits, published
from rpd.envs.control.limit_config import LimitConfig, Positive, check_limits, check_plausible, limits_in, read, validated
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS
from rpd.envs.robots import ROBOTS, Robot
from rpd.envs.simulator_options import IDEAL, PUBLISHED
from rpd.envs.specs import Viewpoint
from rpd.envs.user_files import unknown

DRIVERS = {
    **dict.fromkeys(SIMULATORS, "rpd.deploy.robots.sim:SimDriver"),
    "replay": "rpd.deploy.robots.replay:ReplayDriver",
    "ur": "rpd.deploy.robots.ur:URDriver",
    "franka": "rpd.deploy.robots.franka:FrankaDriver",
    "xarm": "rpd.deploy.robots.xarm:XArmDriver",
    "lerobot": "rpd.deploy.robots.lerobot:LeRobotDriver",
}
"""``module:class`` of each driver, by its name in a robot file; see `rpd.deploy.robots.base.RobotDriver`."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WatchdogConfig(_Strict):
    """Timeouts; every entry is required."""

    observation_age: Positive
    """Maximum age of joint measurements and camera images, s."""
    policy: Positive
    """Maximum time for the answer to an observation, s."""
    max_consecutive_overruns: int = Field(ge=1)
    """Maximum number of consecutive missed deadlines."""
    command_timeout: Positive
    """Time without a command after which the robot's own watchdog stops it, s, if it has one."""


class CameraConfig(_Strict):
    """A camera; its name is that of the observation, e.g. ``front`` for ``image.front``."""

    driver: Literal["sim", "opencv", "realsense"]
    device: str | int | None = None
    """opencv: number or path; realsense: serial number."""
    rate: Positive = 30.0
    """Images per second."""
    width: int = Field(640, ge=8)
    """Width of the captured image, pixels; it is cropped to a square and scaled to the policy's image size."""
    height: int = Field(480, ge=8)
    viewpoint: Viewpoint | None = None
    """Measured pose and field of view, see `rpd robot check`; compared with the one that a policy was trained with."""


class RobotConfig(_Strict):
    """A robot. See docs/deploy.md."""

    driver: str
    """Name of the driver, see `DRIVERS`; or ``FILE.py:Class``, see `rpd.deploy.robots.user_driver`."""
    kinematics: str
    """Robot of the tabletop simulation with the same kinematics."""
    rate: Positive
    """Commands per second, Hz; a multiple of the policy's rate."""
    stop_within: Positive
    """Maximum time from a fault to the stop command, s."""
    ramp: float = Field(ge=0, allow_inf_nan=False)
    """Duration of the speed ramp at the start of an episode, s."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Weight of the previous action in the smoothed action."""
    gripper_hysteresis: float = Field(0.0, ge=0, lt=1)
    """Distance from zero that a gripper action has to exceed to switch the gripper."""
    limits: LimitConfig
    watchdog: WatchdogConfig
    connection: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the driver, e.g. the robot's address."""
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)

    def safety_limits(self) -> ArmLimits:
        """Limits of the arm, as arrays."""
        return self.limits.arrays()


def load(name: str, driver: str | None = None) -> RobotConfig:
    """Read a robot file.

    Args:
        name: name of a built-in robot file, or path of a YAML file.
        driver: driver in place of the file's.

    Raises:
        ConfigError: the robot does not exist, or the first missing or wrong entry of its file.
    """
    content, where = read(name)
    config = validated(RobotConfig, content, where)
    folder = Path(name).parent if driver is None else Path.cwd()
    config = config.model_copy(update={"driver": absolute(driver or config.driver, folder)})
    _check(config, where)
    return config


def simulated(config: RobotConfig) -> RobotConfig:
    """The same robot, limits and watchdogs with the simulated arm and its cameras, which report no contact force."""
    cameras = {name: camera.model_copy(update={"driver": "sim", "device": None}) for name, camera in config.cameras.items()}
    limits = config.limits.model_copy(update={"max_contact_force": None})
    return config.model_copy(update={"driver": "sim", "connection": {}, "cameras": cameras, "limits": limits})


def as_trained(config: RobotConfig, robot: Robot, limits: str) -> RobotConfig:
    """The same robot file for another simulated arm, with the limits of training.

    Args:
        config: config of a simulated robot.
        robot: the other arm.
        limits: limits of training, see `rpd.envs.control.limit_config.limits_of`; ``none``: those of the manufacturer.
    """
    if limits not in (PUBLISHED, IDEAL):
        given = limits_in(limits, robot).model_copy(update={"max_contact_force": None})
        return config.model_copy(update={"kinematics": robot.name, "limits": given})
    arm = published(robot)
    inner = LimitConfig(
        position=tuple(zip(arm.lower.tolist(), arm.upper.tolist(), strict=True)),
        velocity=tuple(arm.velocity.tolist()),
        acceleration=tuple(arm.acceleration.tolist()),
        workspace=tuple(zip(arm.box[0].tolist(), arm.box[1].tolist(), strict=True)),
        tcp_speed=arm.tcp_speed,
        tilt=arm.tilt + INSET_ANGLE,
        clearance=arm.clearance - INSET - RESOLUTION,
        boxes={},
        max_tracking_error=config.limits.max_tracking_error,
        max_contact_force=None,
    )
    return config.model_copy(update={"kinematics": robot.name, "limits": inner})


def _check(config: RobotConfig, where: str) -> None:
    """Raise if an entry is inconsistent with the driver or the robot.

    Raises:
        ConfigError: names the entry.
    """
    if config.driver not in DRIVERS and not is_file(config.driver):
        raise unknown(f"driver in {where}", config.driver, (*DRIVERS, "FILE.py:Class"))
    if config.kinematics not in ROBOTS:
        raise unknown(f"kinematics in {where}", config.kinematics, ROBOTS)
    limits, watchdog = config.limits, config.watchdog
    check_limits(limits, ROBOTS[config.kinematics], where)
    if config.driver != "replay":  # a record does not follow commands
        check_plausible(limits, where)
        _check_jerk(config, where)
    period = 1 / config.rate
    if watchdog.command_timeout + period > config.stop_within + 1e-9:
        raise ConfigError(
            f"{where}: stop_within {config.stop_within:g} s cannot be kept if the control loop dies: watchdog.command_timeout "
            f"and a period take {watchdog.command_timeout + period:g} s"
        )
    slowest = max(watchdog.observation_age, watchdog.policy, watchdog.max_consecutive_overruns * period) + 2 * period
    if slowest > config.stop_within + 1e-9:
        raise ConfigError(
            f"{where}: stop_within {config.stop_within:g} s cannot be kept: the watchdog and two periods take {slowest:g} s"
        )


def _check_jerk(config: RobotConfig, where: str) -> None:
    """Raise if commands within the limits could exceed the manufacturer's limit of jerk.

    The acceleration changes by at most twice its limit from one command to the next.

    Raises:
        ConfigError: names the joint.
    """
    robot = ROBOTS[config.kinematics]
    for i, (acceleration, most) in enumerate(zip(config.limits.acceleration, robot.jerk, strict=False), 1):
        if (jerk := 2 * acceleration * config.rate) > most:
            raise ConfigError(
                f"{where}: limits.acceleration of joint {i}: {acceleration:g} rad/s^2 at {config.rate:g} commands per second "
                f"allows a jerk of {jerk:g} rad/s^3, and the arm has at most {most:g}: lower it or the rate"
            )
