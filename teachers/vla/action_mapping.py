"""Map a teacher's actions to the environment's: units, frame and gripper convention, declared once and checked before a run.

An action mapping is a small YAML file: a shipped one (``teachers/action_mappings/<name>.yaml``), ``action_mapping.yaml`` in the
checkpoint folder, or a user's file.

    action:                          # the teacher's dimensions, in order
      x: {unit: m, scale: 0.05}      # size of its 1
      ...
      gripper: {open: -1, closed: 1} # its values for open and closed
    frame: base                      # frame of Cartesian deltas

``action: env`` declares a teacher trained on the environment's own normalized actions, and ``x: env`` one such dimension. For
policies behind a third-party server, a section ``server`` declares their inputs: see `rpd.teachers.adapters.served`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError, SpecMismatch, unknown_name
from rpd.envs.specs import ActionSpec, EnvSpec
from rpd.teachers.adapters.served import Served
from rpd.teachers.vla.reach import Reach, is_one_sided

FILE = "action_mapping.yaml"
GRIPPER = "open or closed"
"""Unit of a discrete dimension, in messages."""


class Dimension(BaseModel):
    """One dimension of a teacher's action: a physical quantity (per control step for deltas), or a gripper."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    unit: str | None = None
    """Unit, e.g. m or rad; as in `ActionSpec.units`."""
    scale: float = 1.0
    """Size of the teacher's 1 in that unit; negative if the direction is reversed."""
    open: float | None = None
    """The teacher's value for an open gripper. The sign changes half-way to `closed`."""
    closed: float | None = None
    """The teacher's value for a closed gripper."""

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


class ActionMapping(BaseModel):
    """Units of a teacher's actions, and the image processing it was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: dict[str, Dimension | None] | None
    """The teacher's dimensions by the environment's names, in order; None (in YAML: env): the environment's own action, or its
    own value in one dimension."""
    frame: str = "base"
    """Frame of Cartesian deltas; ignored with ``action: env``."""
    control_hz: float | None = Field(None, gt=0)
    """Control rate of the deltas; None: any."""
    unnorm_key: str | None = None
    """Key of the action statistics to use."""
    camera: str | None = None
    """Camera of the teacher's images."""
    image_size: int | None = Field(None, ge=8)
    """Height and width of the rendered images, pixels; the teacher resizes them for its model."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the image area to use: 0.9 for models fine-tuned with OpenVLA's image augmentation."""
    server: Served | None = None
    """Inputs of a policy behind a third-party server (teacher ``remote``)."""

    @field_validator("action", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value == "env":
            return None
        if not isinstance(value, dict):
            raise ValueError("must be env, or the teacher's dimensions by name")
        if empty := [name for name, dimension in value.items() if dimension is None]:
            raise ValueError(f"{empty[0]} must be env, or have a unit, or open and closed")
        return {name: None if dimension == "env" else dimension for name, dimension in value.items()}

    def dimension(self, name: str) -> Dimension | None:
        """Return the declaration of one dimension; None: the environment's own value."""
        return None if self.action is None else self.action[name]

    def sides(self, name: str) -> tuple[float, float]:
        """Return the teacher's values of a discrete dimension for open and closed."""
        theirs = self.dimension(name)
        if theirs is None or theirs.open is None or theirs.closed is None:
            return 1.0, -1.0
        return theirs.open, theirs.closed


@dataclass(frozen=True)
class ActionMap:
    """Environment action = gain * teacher action + offset, per dimension; both float64 [A]."""

    gain: np.ndarray
    offset: np.ndarray

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Convert the teacher's actions [..., A] to the environment's [..., A]."""
        return self.gain * action + self.offset


def load_action_mapping(name: str) -> ActionMapping:
    """Read an action mapping.

    Args:
        name: name of a shipped action mapping, or path of a file.

    Raises:
        ConfigError: the action mapping does not exist or is invalid; names file and field.
    """
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        if name not in shipped():
            raise unknown_name("action mapping", name, [*shipped(), "<file>.yaml"])
        return parse_action_mapping(_folder().joinpath(f"{name}.yaml").read_bytes(), f"action mapping {name}")
    try:
        return parse_action_mapping(Path(name).read_bytes(), name)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read ({error.strerror}); shipped action mappings: {', '.join(shipped())}"
        ) from None


def parse_action_mapping(content: bytes, where: str) -> ActionMapping:
    """Parse an action mapping from YAML.

    Raises:
        ConfigError: invalid content; names `where` and the field.
    """
    try:
        return ActionMapping.model_validate(unique_yaml.load(content, where))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {f'{field}: ' if field else ''}{message}") from None


def find_action_mapping(
    asked: str | None, checkpoint: str, files: Mapping[str, bytes], family: str, datasets: Collection[str]
) -> ActionMapping:
    """Find the action mapping: the requested one, the checkpoint's, or the shipped one of the checkpoint's data set.

    Args:
        asked: see `load_action_mapping`; None: no request.
        checkpoint: name of the checkpoint.
        files: content of its small files, by name.
        family: family of the teacher, for messages.
        datasets: names of the data sets with action statistics. The checkpoint's name is not used, as folders can be renamed.

    Raises:
        ConfigError: no action mapping, or an invalid one.
    """
    if asked is not None:
        return load_action_mapping(asked)
    if FILE in files:
        return parse_action_mapping(files[FILE], f"{checkpoint}/{FILE}")
    known = [action_mapping for action_mapping in map(load_action_mapping, shipped()) if action_mapping.unnorm_key in datasets]
    if len(known) == 1:
        return known[0]
    raise ConfigError(
        f"teacher {family}:{checkpoint}: the units of its actions are unknown: add action_mapping=, one of "
        f"{', '.join(shipped())}, "
        f"or a file; or put a {FILE} into the checkpoint folder"
    )


def shipped() -> list[str]:
    """Names of the shipped action mappings."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def own_action_mapping(action: ActionSpec, gain: Sequence[float] | None = None) -> ActionMapping:
    """Action mapping of a teacher with an environment's normalized actions, with explicit units.

    Args:
        action: the environment's action space.
        gain: [A] value of the teacher's 1 in the environment, if the teacher was built for another action scale; None: 1.
    """
    dimensions: dict[str, Dimension | None] = {}
    for i, (name, unit, scale) in enumerate(zip(action.names, action.units, action.scale, strict=True)):
        size = scale * (1.0 if gain is None else gain[i])
        dimensions[name] = Dimension(open=1, closed=-1) if action.discrete[i] else Dimension(unit=unit, scale=size)
    return ActionMapping(action=dimensions, frame=action.frame)


def connect(action_mapping: ActionMapping, dim: int, spec: EnvSpec, teacher: str, reach: Reach | None = None) -> ActionMap:
    """Compute the map from a teacher's actions to an environment's.

    Args:
        action_mapping: units of the teacher's actions.
        dim: number of the teacher's dimensions.
        spec: the environment.
        teacher: its name, for messages.
        reach: range of the teacher's outputs; None: unknown.

    Raises:
        SpecMismatch: they do not fit, or a discrete dimension would always have the same sign; names both sides.
    """
    found = _map(action_mapping, dim, spec, teacher)
    if reach is not None and (refusal := one_sided(action_mapping, found, spec, teacher, reach)) is not None:
        raise SpecMismatch(refusal)
    return found


def one_sided(action_mapping: ActionMapping, action_map: ActionMap, spec: EnvSpec, teacher: str, reach: Reach) -> str | None:
    """Describe the discrete dimension whose sign would be the same for all outputs of the teacher; None: there is none.

    The mapping then has another convention, e.g. -1 and 1 for a gripper with outputs from 0 to 1: it would never close.
    """
    ends = action_map.to_env(reach.ends)
    for i, name in enumerate(spec.action.names):
        if not spec.action.discrete[i] or not is_one_sided(*ends[:, i]):
            continue
        opened, closed = action_mapping.sides(name)
        middle, always = (opened + closed) / 2, "opens" if ends[:, i].mean() > 0 else "closes"
        where = "above" if reach.low[i] >= middle else "below"
        fits = "1, closed: 0" if 0 <= reach.low[i] <= reach.high[i] <= 1 else "A, closed: B"
        return (
            f"teacher '{teacher}' does not fit its action mapping: '{name}' always {always}: its range is {reach.words(i)} "
            f"({reach.source}), all {where} {middle:g}, half-way between the action mapping's open: {opened:g} and "
            f"closed: {closed:g}; "
            f"write its convention, e.g. {name}: {{open: {fits}}}"
        )
    return None


def _map(action_mapping: ActionMapping, dim: int, spec: EnvSpec, teacher: str) -> ActionMap:
    """Build the map; see `connect`."""
    action = spec.action

    def check(what: str, theirs: object, ours: object) -> None:
        if theirs != ours:
            raise SpecMismatch(
                f"teacher '{teacher}' does not fit environment: {what} differ: teacher has {theirs}; "
                f"environment ({spec.task}) has {ours}"
            )

    if action_mapping.control_hz is not None:
        check("control rates", f"{action_mapping.control_hz:g} Hz", f"{spec.control_hz:g} Hz")
    if action_mapping.action is None:
        check("numbers of action dimensions", dim, action.dim)
        return ActionMap(np.ones(dim), np.zeros(dim))
    if len(action_mapping.action) != dim:
        raise SpecMismatch(
            f"teacher '{teacher}' does not fit its action mapping: its actions have {dim} dimensions, the action mapping names "
            f"{len(action_mapping.action)}: {' '.join(action_mapping.action)}"
        )
    check("action dimensions", " ".join(action_mapping.action), " ".join(action.names))
    if any(theirs is not None and theirs.unit is not None for theirs in action_mapping.action.values()):
        check("action frames", action_mapping.frame, action.frame)
    gain, offset = np.ones(dim), np.zeros(dim)
    for i, (name, theirs) in enumerate(action_mapping.action.items()):
        if theirs is None:
            continue
        check(f"units of '{name}'", theirs.unit or GRIPPER, GRIPPER if action.discrete[i] else action.units[i])
        if action.discrete[i]:  # open -> +1, closed -> -1
            opened, closed = action_mapping.sides(name)
            gain[i], offset[i] = 2 / (opened - closed), -(opened + closed) / (opened - closed)
        else:
            gain[i] = theirs.scale / action.scale[i]
    return ActionMap(gain, offset)


def _folder() -> Any:
    return resources.files("rpd.teachers").joinpath("action_mappings")
