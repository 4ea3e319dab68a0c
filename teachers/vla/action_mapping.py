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

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envs.errors import ConfigError, SpecMismatch, unknown_name
from envs.specs import EnvSpec

FILE = "bridge.yaml"
GRIPPER = "open or closed"
"""Unit of a discrete dimension, in messages."""


class Dimension(BaseModel):
    """One dimension of a teacher's action: a physical quantity (per control step where it is a delta), or a gripper."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    unit: str | None = None
    """E.g. m or rad; as in `ActionSpec.units`."""
    scale: float = 1.0
    """What the teacher's 1 means in that unit; negative where it turns the other way."""
    open: float | None = None
    """What the teacher says to open the gripper. Half-way to `closed` the sign changes."""
    closed: float | None = None
    """What it says to close it."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Dimension:
        kinds = (self.unit is None, self.open is None, self.closed is None)
        if kinds not in ((False, True, True), (True, False, False)):
            raise ValueError("needs a unit, or open and closed")
        if self.unit is None and (self.open == self.closed or "scale" in self.model_fields_set):
            raise ValueError("a gripper needs open and closed that differ, and no scale")
        if self.scale == 0:
            raise ValueError("scale 0 would mean that the teacher never moves")
        return self


class Bridge(BaseModel):
    """What one teacher's actions mean, and how it was trained to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: dict[str, Dimension] | None
    """The teacher's dimensions by the environment's names, in order; None (in YAML: env): the environment's own actions."""
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

    @field_validator("action", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value == "env":
            return None
        if not isinstance(value, dict):
            raise ValueError("has to be env, or the teacher's dimensions by name")
        return value


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
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {f'{field}: ' if field else ''}{message}") from None


def find_bridge(asked: str | None, checkpoint: str, files: Mapping[str, bytes], family: str) -> Bridge:
    """The bridge that was asked for, that lies beside the weights, or that is shipped under the checkpoint's name.

    Args:
        asked: see `load_bridge`; None: nothing was.
        checkpoint: its name.
        files: content of its small files, by name.
        family: of the teacher, for messages.

    Raises:
        ConfigError: there is none, or one with a mistake.
    """
    if asked is not None:
        return load_bridge(asked)
    if FILE in files:
        return parse_bridge(files[FILE], f"{checkpoint}/{FILE}")
    known = Path(checkpoint.split("@")[0]).name
    if known in shipped():
        return load_bridge(known)
    raise ConfigError(
        f"teacher {family}:{checkpoint}: nothing says what its actions mean: add bridge=, one of {', '.join(shipped())}, "
        f"or a file; or put a {FILE} beside the weights"
    )


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
    if bridge.action is None:
        check("numbers of action dimensions", dim, action.dim)
        return ActionMap(np.ones(dim), np.zeros(dim))
    if len(bridge.action) != dim:
        raise SpecMismatch(
            f"teacher '{teacher}' does not fit its bridge: statistics have {dim} action dimensions, the bridge names "
            f"{len(bridge.action)}: {' '.join(bridge.action)}"
        )
    check("action dimensions", " ".join(bridge.action), " ".join(action.names))
    check("action frames", bridge.frame, action.frame)
    gain, offset = np.ones(dim), np.zeros(dim)
    for i, (name, theirs) in enumerate(bridge.action.items()):
        check(f"units of '{name}'", theirs.unit or GRIPPER, GRIPPER if action.discrete[i] else action.units[i])
        if theirs.open is not None and theirs.closed is not None:  # open -> +1, closed -> -1
            gain[i] = 2 / (theirs.open - theirs.closed)
            offset[i] = -(theirs.open + theirs.closed) / (theirs.open - theirs.closed)
        else:
            gain[i] = theirs.scale / action.scale[i]
    return ActionMap(gain, offset)


def _folder() -> Any:
    return resources.files("teachers").joinpath("bridges")
