"""A robot as a file: which driver, which limits, which cameras. What is not said is an error and never "no limit"."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from envs.errors import ConfigError, unknown_name
from envs.tabletop.robots import ROBOTS
from rpd.deploy.safety import Limits

FOLDER = "robots"
Range = tuple[FiniteFloat, FiniteFloat]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitConfig(_Strict):
    """What must not be exceeded; every entry is required. n joints, from base to flange."""

    position: tuple[Range, ...]
    """Of every joint, rad."""
    velocity: tuple[Positive, ...]
    """Of every joint, rad/s."""
    acceleration: tuple[Positive, ...]
    """Of every joint, rad/s^2."""
    workspace: tuple[Range, Range, Range]
    """x, y and z of the tool centre point, base frame, m."""
    tcp_speed: Positive
    """Of the tool centre point, m/s."""
    following: Positive
    """How far a joint may be from where it was commanded to be, rad: beyond, something is in its way."""
    effort: Positive | None
    """External force, N, or motor current, A, whichever the robot reports; null only where it reports none."""


class WatchdogConfig(_Strict):
    """How long what may be missing; every entry is required."""

    observation_age: Positive
    """Seconds since the robot's joints, or a camera's picture, were measured."""
    policy: Positive
    """Seconds since an observation was sent to the policy that has not been answered."""
    overruns: int = Field(ge=1)
    """Commands in a row that are a whole period late."""
    silence: Positive
    """Seconds without a command after which the robot's own watchdog stops it, where it has one."""


class CameraConfig(_Strict):
    """A camera; its name is that of the observation, e.g. ``front`` for ``image.front``."""

    driver: Literal["sim", "opencv", "realsense"]
    device: str | int | None = None
    """opencv: number or path; realsense: serial number."""
    rate: Positive = 30.0
    """Pictures per second."""
    width: int = Field(640, ge=8)
    """Of what the camera takes, pixels; cut to a square, and scaled to what the policy sees."""
    height: int = Field(480, ge=8)


class RobotConfig(_Strict):
    """One robot. See docs/deploy.md."""

    driver: Literal["sim", "replay", "ur", "franka", "xarm", "lerobot"]
    kinematics: str
    """Robot of the tabletop simulation that has the same links."""
    rate: Positive
    """Commands per second, a multiple of the policy's rate."""
    stop_within: Positive
    """Seconds from a fault to the command to stop."""
    ramp: float = Field(ge=0, allow_inf_nan=False)
    """Seconds of slow start."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the action before in the next one."""
    gripper_hysteresis: float = Field(0.0, ge=0, lt=1)
    """How far past zero a gripper command has to be to turn the gripper."""
    limits: LimitConfig
    watchdog: WatchdogConfig
    connection: dict[str, Any] = Field(default_factory=dict)
    """What the driver wants to know, e.g. the robot's address."""
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)

    def safety_limits(self) -> Limits:
        """The limits as arrays."""
        limits = self.limits
        (lower, upper), box = np.array(limits.position).T, np.array(limits.workspace)
        return Limits(
            lower, upper, np.array(limits.velocity), np.array(limits.acceleration), (box[:, 0], box[:, 1]), limits.tcp_speed
        )


def names() -> list[str]:
    """The robots that ship, see ``configs/robots``."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files("configs").joinpath(FOLDER).iterdir())


def load(name: str) -> RobotConfig:
    """Read a robot's file.

    Args:
        name: of a robot that ships, or the path of a YAML file.

    Raises:
        ConfigError: no such robot, or the first thing that is missing or wrong in its file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"robot file {name} does not exist")
        text, where = path.read_text(), name
    elif name in names():
        text = resources.files("configs").joinpath(FOLDER).joinpath(f"{name}.yaml").read_text()
        where = f"configs/{FOLDER}/{name}.yaml"
    else:
        raise unknown_name("robot", name, [*names(), "FILE.yaml"])
    try:
        config = RobotConfig.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {place} is missing: a robot does not move without it") from None
        raise ConfigError(f"{where}: {place}: {first['msg']}") from None
    _check(config, where)
    return config


def _check(config: RobotConfig, where: str) -> None:
    """Refuse what cannot be meant.

    Raises:
        ConfigError: naming it.
    """
    if config.kinematics not in ROBOTS:
        raise unknown_name(f"kinematics in {where}", config.kinematics, ROBOTS)
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
    for axis, (low, high) in zip("xyz", limits.workspace, strict=True):
        if low >= high:
            raise ConfigError(f"{where}: limits.workspace: {axis} from {low:g} to {high:g} m is empty")
    period = 1 / config.rate
    slowest = max(watchdog.observation_age, watchdog.policy, watchdog.overruns * period) + 2 * period
    if slowest > config.stop_within + 1e-9:
        raise ConfigError(
            f"{where}: stop_within {config.stop_within:g} s cannot be kept: the watchdog and two periods take {slowest:g} s"
        )
