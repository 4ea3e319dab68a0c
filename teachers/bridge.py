"""From a teacher's action to the environment's: units, frame, gripper, declared once and checked before a run.

A bridge is a small YAML file: one that is shipped (``teachers/bridges/<name>.yaml``), ``bridge.yaml`` beside a checkpoint, or
one of your own.

    action:                          # the teacher's dimensions, in its order
      x: {unit: m, scale: 0.05}      # what its 1 means
      ...
      gripper: {open: -1, closed: 1} # what it says to open, and to close
    frame: base                      # in which Cartesian deltas are expressed

``action: env`` stands for a teacher that was trained on the environment's own normalised actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from envs.errors import ConfigError, SpecMismatch, unknown_name
from envs.specs import EnvSpec

FILE = "bridge.yaml"


class Continuous(BaseModel):
    """A dimension that is a physical quantity, per control step where it is a delta."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: str
    """E.g. m or rad; as in `ActionSpec.units`."""
    scale: float = 1.0
    """What the teacher's 1 means in that unit; negative where it turns the other way."""

    @field_validator("scale")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0 or not np.isfinite(value):
            raise ValueError("has to be a finite number other than 0")
        return value


class Gripper(BaseModel):
    """A dimension that opens and closes; half-way between the two values the sign changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: float
    """What the teacher says to open the gripper."""
    closed: float
    """What it says to close it."""

    @field_validator("closed")
    @classmethod
    def _differs(cls, value: float, info: Any) -> float:
        if value == info.data.get("open"):
            raise ValueError("open and closed have to differ")
        return value


class Bridge(BaseModel):
    """What one teacher's actions mean, and how it was trained to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["env"] | dict[str, Continuous | Gripper]
    """``env``, or the teacher's dimensions by the environment's names, in order."""
    frame: str = "base"
    """Frame of Cartesian deltas; with ``action: env`` that of the environment."""
    control_hz: float | None = Field(None, gt=0)
    """Control rate that the deltas are meant for; None: whatever the environment's is."""
    unnorm_key: str | None = None
    """Action statistics to use."""
    camera: str | None = None
    """Camera that the teacher looks through."""
    image_size: int | None = Field(None, ge=8)
    """Height and width to render for it, pixels; the teacher resizes to what its model sees."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the image's area to look at: 0.9 for fine-tunes with OpenVLA's image augmentation."""


@dataclass(frozen=True)
class ActionMap:
    """Environment action = gain * teacher action + offset, per dimension; both float64 [A]."""

    gain: np.ndarray
    offset: np.ndarray

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """[..., A] of the teacher -> [..., A] of the environment."""
        return self.gain * action + self.offset


def load_bridge(name: str) -> Bridge:
    """Read a bridge.

    Args:
        name: of one that is shipped, or the path of a file.

    Raises:
        ConfigError: no such bridge, or one with a mistake; names file and field.
    """
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        if name not in shipped():
            raise unknown_name("bridge", name, [*shipped(), "<file>.yaml"])
        return parse_bridge(_folder().joinpath(f"{name}.yaml").read_bytes(), f"bridge {name}")
    try:
        return parse_bridge(Path(name).read_bytes(), name)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); shipped bridges: {', '.join(shipped())}") from None


def parse_bridge(content: bytes, where: str) -> Bridge:
    """Read a bridge from YAML.

    Raises:
        ConfigError: naming `where` and the field.
    """
    try:
        return Bridge.model_validate(yaml.safe_load(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def shipped() -> list[str]:
    """Names of the bridges that come with this package."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def connect(bridge: Bridge, dim: int, spec: EnvSpec, teacher: str) -> ActionMap:
    """Work out the map from a teacher's actions to an environment's.

    Args:
        bridge: what the teacher's actions mean.
        dim: how many dimensions the teacher has.
        spec: the environment.
        teacher: its name, for messages.

    Raises:
        SpecMismatch: they do not fit; names what, and both sides.
    """
    action = spec.action

    def check(what: str, theirs: object, ours: object) -> None:
        if theirs != ours:
            raise SpecMismatch(
                f"teacher '{teacher}' does not fit environment: {what} differ: teacher has {theirs}; "
                f"environment ({spec.task}) has {ours}"
            )

    if bridge.control_hz is not None:
        check("control rates", f"{bridge.control_hz:g} Hz", f"{spec.control_hz:g} Hz")
    if bridge.action == "env":
        check("numbers of action dimensions", dim, action.dim)
        return ActionMap(np.ones(dim), np.zeros(dim))
    check("numbers of action dimensions", f"{dim} in its statistics", f"{len(bridge.action)} in its bridge")
    check("action dimensions", " ".join(bridge.action), " ".join(action.names))
    check("action frames", bridge.frame, action.frame)
    gain, offset = np.ones(dim), np.zeros(dim)
    for i, (name, theirs) in enumerate(bridge.action.items()):
        unit = "open or closed" if isinstance(theirs, Gripper) else theirs.unit
        check(f"units of '{name}'", unit, "open or closed" if action.discrete[i] else action.units[i])
        if isinstance(theirs, Gripper):  # open -> +1, closed -> -1
            gain[i] = 2 / (theirs.open - theirs.closed)
            offset[i] = -(theirs.open + theirs.closed) / (theirs.open - theirs.closed)
        else:
            gain[i] = theirs.scale / action.scale[i]
    return ActionMap(gain, offset)


def _folder() -> Any:
    return resources.files("teachers").joinpath("bridges")
