"""Robot files: driver, limits and cameras. A missing limit is an error, never "no limit"."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from rpd.deploy.robots.driver_names import absolute, is_file
from rpd.envs.control.arm_limits import ArmLimits
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import Viewpoint
from rpd.envs.user_files import unknown
from rpd.students import unique_yaml

FOLDER = "robots"
DRIVERS = {
    "sim": "rpd.deploy.robots.sim:SimDriver",
    "replay": "rpd.deploy.robots.replay:ReplayDriver",
    "ur": "rpd.deploy.robots.ur:URDriver",
    "franka": "rpd.deploy.robots.franka:FrankaDriver",
    "xarm": "rpd.deploy.robots.xarm:XArmDriver",
    "lerobot": "rpd.deploy.robots.lerobot:LeRobotDriver",
}
"""``module:class`` of each driver, by its name in a robot file; see `rpd.deploy.robots.base.RobotDriver`."""
Range = tuple[FiniteFloat, FiniteFloat]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitConfig(_Strict):
    """Limits of a robot with n joints, from base to flange; every entry is required."""

    position: tuple[Range, ...]
    """Range of each joint, rad."""
    velocity: tuple[Positive, ...]
    """Maximum velocity of each joint, rad/s."""
    acceleration: tuple[Positive, ...]
    """Maximum acceleration of each joint, rad/s^2."""
    workspace: tuple[Range, Range, Range]
    """Ranges of x, y and z of the tool center point, base frame, m."""
    tcp_speed: Positive
    """Maximum speed of the tool center point, m/s."""
    tilt: Positive
    """Maximum angle of the tool from straight down, rad; pi allows every orientation."""
    clearance: Positive
    """Minimum distance of hand, fingers and links from the table, the base, the boxes, and each other, m."""
    boxes: dict[str, tuple[Range, Range, Range]]
    """Obstacles by name: ranges of x, y and z, base frame, m; `{}` if there are none."""
    max_tracking_error: Positive
    """Maximum distance of a joint from its commanded position, rad; a larger one indicates an obstacle."""
    max_contact_force: Positive | None
    """Maximum external force, N, or motor current, A, whichever the robot reports; null only if it reports none."""


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
        """Convert the limits to arrays."""
        limits = self.limits
        (lower, upper), box = np.array(limits.position).T, np.array(limits.workspace)
        return ArmLimits(
            lower, upper, np.array(limits.velocity), np.array(limits.acceleration), (box[:, 0], box[:, 1]), limits.tcp_speed,
            limits.tilt, limits.clearance,
        )  # fmt: skip


def names() -> list[str]:
    """Names of the built-in robot files in ``configs/robots``."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files("rpd.configs").joinpath(FOLDER).iterdir())


def load(name: str, driver: str | None = None) -> RobotConfig:
    """Read a robot file.

    Args:
        name: name of a built-in robot file, or path of a YAML file.
        driver: driver in place of the file's.

    Raises:
        ConfigError: the robot does not exist, or the first missing or wrong entry of its file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"robot file {name} does not exist")
        text, where = path.read_text(), name
    elif name in names():
        text = resources.files("rpd.configs").joinpath(FOLDER).joinpath(f"{name}.yaml").read_text()
        where = f"configs/{FOLDER}/{name}.yaml"
    else:
        raise unknown_name("robot", name, [*names(), "FILE.yaml"])
    try:
        config = RobotConfig.model_validate(unique_yaml.load(text, where))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {place} is missing: it is required to move the robot") from None
        raise ConfigError(f"{where}: {place}: {first['msg']}") from None
    folder = path.parent if driver is None else Path.cwd()
    config = config.model_copy(update={"driver": absolute(driver or config.driver, folder)})
    _check(config, where)
    return config


def simulated(config: RobotConfig) -> RobotConfig:
    """The same robot, limits and watchdogs with the simulated arm and its cameras, which report no contact force."""
    cameras = {name: camera.model_copy(update={"driver": "sim", "device": None}) for name, camera in config.cameras.items()}
    limits = config.limits.model_copy(update={"max_contact_force": None})
    return config.model_copy(update={"driver": "sim", "connection": {}, "cameras": cameras, "limits": limits})


PLAUSIBLE: dict[str, tuple[float, str]] = {
    "acceleration": (100.0, "rad/s^2; degrees?"),
    "workspace": (2.0, "m; mm?"),
    "tcp_speed": (2.0, "m/s; mm/s?"),
    "tilt": (3.1416, "rad; degrees?"),
    "clearance": (0.1, "m; mm?"),
    "boxes": (2.0, "m; mm?"),
    "max_tracking_error": (1.0, "rad; degrees?"),
    "max_contact_force": (300.0, "N or A"),
}
"""Largest plausible values of limits of table-top arms, with the unit, and the unit that a larger value probably has."""


def check_plausible(limits: LimitConfig, where: str) -> None:
    """Reject limits that are so large that they limit nothing, probably because of their unit.

    Raises:
        ConfigError: names the entry, its value, the largest plausible one, and the unit.
    """
    for name, (most, unit) in PLAUSIBLE.items():
        given = getattr(limits, name)
        given = list(given.values()) if isinstance(given, dict) else given
        for value in np.abs(np.array([] if given is None else given, dtype=float)).ravel():
            if value > most:
                raise ConfigError(f"{where}: limits.{name}: {value:g} is implausible: at most {most:g} {unit}")


def _check(config: RobotConfig, where: str) -> None:
    """Raise if an entry is inconsistent with the driver or the robot.

    Raises:
        ConfigError: names the entry.
    """
    if config.driver not in DRIVERS and not is_file(config.driver):
        raise unknown(f"driver in {where}", config.driver, (*DRIVERS, "FILE.py:Class"))
    if config.kinematics not in ROBOTS:
        raise unknown(f"kinematics in {where}", config.kinematics, ROBOTS)
    links, limits, watchdog = ROBOTS[config.kinematics].links, config.limits, config.watchdog
    for name in ("position", "velocity", "acceleration"):
        given = len(getattr(limits, name))
        if given != len(links):
            raise ConfigError(f"{where}: limits.{name} has {given} entries, and {config.kinematics} has {len(links)} joints")
    for i, (link, (low, high), velocity) in enumerate(zip(links, limits.position, limits.velocity, strict=True), 1):
        least, most = link.limits
        if not least - 1e-6 <= low < high <= most + 1e-6:
            raise ConfigError(
                f"{where}: limits.position of joint {i}: {low:g} to {high:g} rad, and the arm has {least:g} to {most:g}"
            )
        if velocity > link.velocity + 1e-6:
            raise ConfigError(
                f"{where}: limits.velocity of joint {i}: {velocity:g} rad/s, and the arm has at most {link.velocity:g}"
            )
    for name, ranges in {"workspace": limits.workspace, **{f"boxes.{name}": box for name, box in limits.boxes.items()}}.items():
        for axis, (low, high) in zip("xyz", ranges, strict=True):
            if low >= high:
                raise ConfigError(f"{where}: limits.{name}: {axis} from {low:g} to {high:g} m is empty")
    if config.driver != "replay":  # a record does not follow commands
        check_plausible(limits, where)
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
