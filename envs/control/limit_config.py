"""The `limits` of a robot file: schema, checks, and their use in training."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from rpd.envs import unique_yaml
from rpd.envs.control.arm_limits import ArmLimits, published, unlimited
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.robots import Robot
from rpd.envs.simulator_options import IDEAL, PUBLISHED

FOLDER = "robots"
Model = TypeVar("Model", bound=BaseModel)
Range = tuple[FiniteFloat, FiniteFloat]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LimitConfig(BaseModel):
    """Limits of a robot with n joints, from base to flange; every entry is required."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    def arrays(self) -> ArmLimits:
        """Convert the limits to arrays."""
        (lower, upper), box = np.array(self.position).T, np.array(self.workspace)
        corners = np.array(list(self.boxes.values())).reshape(-1, 3, 2)
        return ArmLimits(
            lower, upper, np.array(self.velocity), np.array(self.acceleration), (box[:, 0], box[:, 1]), self.tcp_speed,
            self.tilt, self.clearance, (corners[..., 0], corners[..., 1]), tuple(self.boxes),
        )  # fmt: skip


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


def check_limits(limits: LimitConfig, robot: Robot, where: str) -> None:
    """Reject limits that do not fit an arm.

    Raises:
        ConfigError: names the entry.
    """
    for name in ("position", "velocity", "acceleration"):
        given = len(getattr(limits, name))
        if given != len(robot.links):
            raise ConfigError(f"{where}: limits.{name} has {given} entries, and {robot.name} has {len(robot.links)} joints")
    for i, (link, (low, high), velocity) in enumerate(zip(robot.links, limits.position, limits.velocity, strict=True), 1):
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


def robot_files() -> list[str]:
    """Names of the built-in robot files in ``configs/robots``."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files("rpd.configs").joinpath(FOLDER).iterdir())


def read(name: str) -> tuple[Any, str]:
    """Parse a robot file.

    Args:
        name: name of a built-in robot file, or path of a YAML file.

    Returns:
        Its content, and its path for messages.

    Raises:
        ConfigError: the file does not exist or is not valid YAML.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise ConfigError(f"robot file {name} does not exist")
        return unique_yaml.load(Path(name).read_text(), name), name
    if name not in robot_files():
        raise unknown_name("robot", name, [*robot_files(), "FILE.yaml"])
    where = f"configs/{FOLDER}/{name}.yaml"
    text = resources.files("rpd.configs").joinpath(FOLDER).joinpath(f"{name}.yaml").read_text()
    return unique_yaml.load(text, where), where


def self_contained(name: str) -> str:
    """Content of a robot file in place of its name: limits that are the same on another machine, and when the file changes.

    Args:
        name: see `limits_of`.

    Returns:
        JSON with the file's name, its robot and its limits; ``published``, ``none`` and such content unchanged.

    Raises:
        ConfigError: the file is missing, or no robot file.
    """
    if name in (PUBLISHED, IDEAL) or is_content(name):
        return name
    content = _robot_file(name)[0]
    return json.dumps({"file": Path(name).name, "kinematics": content.get("kinematics"), "limits": content["limits"]})


def is_content(limits: str) -> bool:
    """Whether limits are the content of a robot file, from `self_contained`."""
    return limits.startswith("{")


def label(limits: str) -> str:
    """Short name of limits for messages: of a content, the file's name and a hash of its limits."""
    if not is_content(limits):
        return limits
    content = unique_yaml.load(limits, "limits")
    values = json.dumps(content.get("limits"), sort_keys=True)
    return f"{content.get('file')} ({hashlib.sha256(values.encode()).hexdigest()[:8]})"


def _robot_file(name: str) -> tuple[dict[str, Any], str]:
    """Content of a robot file, and its name for messages.

    Raises:
        ConfigError: the file is missing, or no robot file.
    """
    if is_content(name):
        content = unique_yaml.load(name, "limits")
        where = f"limits of {content.get('file')}"
    else:
        content, where = read(name)
    if not isinstance(content, dict) or "limits" not in content:
        raise ConfigError(f"{where}: limits are missing: it is no robot file")
    return content, where


def limits_of(name: str, robot: Robot) -> ArmLimits:
    """Limits of an arm in the simulation.

    Args:
        name: ``published``, ``none``, the name of a built-in robot file, the path of a YAML file, or its content from
            `self_contained`; see `rpd.envs.simulator_options.TabletopOptions.limits`.
        robot: arm of the environment.

    Raises:
        ConfigError: the file is missing or wrong, or is of another arm.
    """
    if name in (PUBLISHED, IDEAL):
        return published(robot) if name == PUBLISHED else unlimited(robot)
    return limits_in(name, robot).arrays()


def limits_in(name: str, robot: Robot) -> LimitConfig:
    """Limits of a robot file, by its name, its path or its content.

    Raises:
        ConfigError: see `limits_of`.
    """
    content, where = _robot_file(name)
    if (other := content.get("kinematics")) != robot.name:
        raise ConfigError(f"env.limits: {where} is of robot {other}, and the environment has robot {robot.name}")
    limits = validated(LimitConfig, content["limits"], where, "limits.")
    check_limits(limits, robot, where)
    check_plausible(limits, where)
    return limits


def validated(model: type[Model], content: Any, where: str, prefix: str = "") -> Model:
    """Check the content of a robot file.

    Raises:
        ConfigError: the first missing or wrong entry.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = prefix + ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {place} is missing: it is required to move the robot") from None
        raise ConfigError(f"{where}: {place}: {first['msg']}") from None
