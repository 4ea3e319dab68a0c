"""Specs of an environment that a policy is saved with: robot, observations, actions and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rpd.envs.errors import SpecMismatch, unknown_name

if TYPE_CHECKING:  # robots and tasks are listed without importing torch
    import numpy as np
    from torch import Tensor

    from rpd.envs.privileged_state import ManipulationState, NavigationState

JOINTS = ("q", "dq", "qpos", "qvel")
"""Groups of state entries that are specific to one robot."""


class Spec(BaseModel):
    """An immutable, validated value, serialized as JSON. May come from an untrusted source: sizes are bounded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MAX_NUMBERS = 2**28
"""Largest number of values in one observation: four frames of 4096 x 4096 pixels."""
MAX_STEPS, MAX_FRAMES = 10**6, 64
Side = Annotated[int, Field(ge=0, le=2**16)]
Length = Annotated[float, Field(ge=-1e6, le=1e6)]


class ActionSpec(Spec):
    """A normalized action space: every dimension in [-1, 1].

    Attributes:
        names: one name per dimension, e.g. ``("x", "y", "z", "roll", "pitch", "yaw", "gripper")``.
        units: physical unit of each dimension, e.g. ``"m"``, ``"rad"``.
        scale: physical value of +1, in that unit (for a delta: per control step), relative to `center`.
        discrete: dimensions of which only the sign matters (a gripper: +1 opens, -1 closes).
        frame: frame of Cartesian deltas, e.g. ``"base"``.
        center: physical value of 0, in that unit; empty: 0.
    """

    names: tuple[str, ...] = Field(max_length=1024)
    units: tuple[str, ...]
    scale: tuple[Length, ...]
    discrete: tuple[bool, ...]
    frame: str = "base"
    center: tuple[Length, ...] = ()

    @model_validator(mode="after")
    def _even(self) -> ActionSpec:
        for field in ("units", "scale", "discrete"):
            if (count := len(getattr(self, field))) != self.dim:
                raise ValueError(f"{self.dim} names and {count} of {field}: one per dimension is needed")
        if len(self.center) not in (0, self.dim):
            raise ValueError(f"{self.dim} names and {len(self.center)} of center: one per dimension, or none")
        return self

    @property
    def dim(self) -> int:
        """Number of action dimensions A."""
        return len(self.names)


class ObsSpec(Spec):
    """Shape (without the batch) and dtype of one observation key."""

    shape: tuple[Side, ...] = Field(max_length=4)
    dtype: Literal["float32", "uint8"]

    @model_validator(mode="after")
    def _bounded(self) -> ObsSpec:
        if (size := math.prod(self.shape)) > MAX_NUMBERS:
            raise ValueError(f"shape {list(self.shape)} has {size:,} numbers, more than the {MAX_NUMBERS:,} that are allowed")
        return self


Row = tuple[Length, Length, Length]


class Viewpoint(Spec):
    """Pose and field of view of a camera, a pinhole in the middle of its square image.

    Attributes:
        position: m, in the robot's base frame; of a mounted camera in the frame of the tool center point.
        rotation: [3][3] rows of the rotation to that frame; its columns are the directions to the right of the image, down, and
            into it. The determinant is -1 for a simulator with mirrored images (LIBERO).
        fov: vertical field of view, rad.
        mounted: whether the camera is mounted on the hand.
    """

    position: Row
    rotation: tuple[Row, Row, Row]
    fov: float = Field(gt=0, lt=math.pi)
    mounted: bool = False

    @classmethod
    def of(cls, position: np.ndarray, rotation: np.ndarray, fov: float, mounted: bool = False) -> Viewpoint:
        """Build from arrays: position [3], m, rotation [3, 3], and field of view, rad."""
        rows = [tuple(map(float, row)) for row in rotation]
        return cls(position=tuple(map(float, position)), rotation=tuple(rows), fov=float(fov), mounted=mounted)

    def __str__(self) -> str:
        x, y, z = self.position
        forward = " ".join(f"{row[2]:+.2f}" for row in self.rotation)
        place = f"{x:.3f} {y:.3f} {z:.3f} m {'from the tool' if self.mounted else 'from the base'}"
        return f"{place}, looking along {forward}, {math.degrees(self.fov):.0f}° high"


class Embodiment(Spec):
    """Description of a robot for a policy.

    Attributes:
        name: registry name, e.g. ``"panda"``.
        num_joints: number of arm joints, without the gripper.
        descriptor: physical parameters by name (reach in m, gripper opening in m, joint limits in rad, gains...), to
            condition a policy on physics rather than on an index.
    """

    name: str
    num_joints: int = Field(ge=0, le=1024)
    descriptor: dict[str, float]


class Settings(Spec):
    """Options of an environment that no other field of `EnvSpec` holds; names as in `rpd.envs.config.EnvConfig`.

    Attributes:
        domain_randomization: randomized conditions.
        limits: limits of the arm; those of a robot file are its content, not its name. Those of older specs are ``none``.
        action_rate_cost, jerk_cost, limit_cost: costs of motion that is not smooth.
        sim_backend: device of the physics.
        ignore_terminations: whether a solved episode continues to its last step.
        reconfigure: whether the scene is rebuilt for every episode.
        make_kwargs, success, instruction: options of Gymnasium environments.
        teacher_cameras: teacher-only cameras.
        teacher_image_size: height and width of their images, pixels.
        imports: imported user files and modules, see `rpd.envs.user_files`.
    """

    domain_randomization: tuple[str, ...] = ()
    limits: str = Field("none", max_length=20_000)
    action_rate_cost: float = 0.0
    jerk_cost: float = 0.0
    limit_cost: float = 0.0
    sim_backend: Literal["auto", "cpu", "gpu"] | None = None
    ignore_terminations: bool | None = None
    reconfigure: bool | None = None
    make_kwargs: tuple[str, ...] = ()
    success: str | None = None
    instruction: str | None = None
    teacher_cameras: tuple[str, ...] = ()
    teacher_image_size: int | None = Field(None, ge=1, le=2**13)
    imports: tuple[str, ...] = ()


class EnvSpec(Spec):
    """Description of an environment: what a policy depends on, and what is needed to build the environment again.

    Attributes:
        task: registry name, e.g. ``"tabletop/PickCube"``.
        embodiment: the robot.
        observations: student observations by key: ``"state"``, ``"image.<camera>"``. Never lists ``"privileged"``, which is for
            teachers (see `scene` and `course`).
        state_names: one name per entry of ``"state"``.
        state_scaled: entries that are of order one already (empty: none) and are not normalized with running statistics, which
            amplify entries that rarely change, such as a touch or a goal.
        action: the action space.
        control_hz: control steps per second.
        max_episode_steps: control steps before an episode is truncated.
        reward: reward mode, e.g. ``"dense"`` or ``"sparse"``.
        scene: whether observations have ``"privileged"`` with the layout `ManipulationState`.
        oriented: whether the object has to match the target's orientation: `ManipulationState.relative` then includes the
            rotation that is left.
        course: whether observations have ``"privileged"`` with the layout `NavigationState`.
        frames: number of stacked frames per image, along its 3 `frames` channels, newest last (see
            `rpd.envs.wrappers.frame_stack`).
        rendering: rendering mode, if there is a choice (see `rpd.envs.config.EnvConfig.rendering`).
        settled_with: version of MuJoCo that settles LIBERO's initial states (see `rpd.envs.config.EnvConfig.settled_with`).
        control_mode: controller, if there is a choice (see `rpd.envs.config.EnvConfig.control_mode`).
        settings: other options of the environment; None: the spec predates their recording.
        viewpoints: cameras of the images by observation key; a camera whose pose is not known is left out.
    """

    task: str
    embodiment: Embodiment
    observations: dict[str, ObsSpec]
    state_names: tuple[str, ...]
    state_scaled: tuple[bool, ...] = ()
    action: ActionSpec
    control_hz: float = Field(gt=0, le=1e5)
    max_episode_steps: int = Field(ge=1, le=MAX_STEPS)
    reward: str
    scene: bool = False
    oriented: bool = False
    course: bool = False
    frames: int = Field(1, ge=1, le=MAX_FRAMES)
    rendering: Literal["stock", "cheap"] | None = None
    settled_with: Literal["3.3.0", "installed"] | None = None
    control_mode: str | None = None
    settings: Settings | None = None
    viewpoints: dict[str, Viewpoint] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _consistent(self) -> EnvSpec:
        state, names = self.observations.get("state"), len(self.state_names)
        if state is not None and state.shape != (names,):
            raise ValueError(f"observation 'state' has shape {list(state.shape)}, and there are {names} state_names")
        if len(self.state_scaled) not in (0, names):
            raise ValueError(f"{len(self.state_scaled)} of state_scaled, and {names} state_names")
        for key in self.cameras:
            shape = self.observations[key].shape
            if len(shape) != 3 or shape[2] % self.frames:
                raise ValueError(
                    f"observation '{key}' has shape {list(shape)}: height, width and channels of {self.frames} frames"
                )
        return self

    @property
    def imports(self) -> tuple[str, ...]:
        """User files and modules imported during training."""
        return self.settings.imports if self.settings is not None else ()

    @property
    def layout(self) -> type[ManipulationState] | type[NavigationState] | None:
        """Layout of ``"privileged"``."""
        from rpd.envs.privileged_state import ManipulationState, NavigationState

        return ManipulationState if self.scene else NavigationState if self.course else None

    def relative(self, privileged: Tensor) -> Tensor:
        """Critic features [N, F], of order one: `relative` of the layout, from the privileged state [N, dim]."""
        from rpd.envs.privileged_state import ManipulationState, NavigationState

        return NavigationState.relative(privileged) if self.course else ManipulationState.relative(privileged, self.oriented)

    @property
    def cameras(self) -> list[str]:
        """Keys of the image observations."""
        return sorted(key for key in self.observations if key.startswith("image."))

    def stacked(self, frames: int) -> EnvSpec:
        """This spec with `frames` frames per image; 1: single camera frames."""
        images = {key: self.observations[key] for key in self.cameras}
        for key, image in images.items():
            height, width, channels = image.shape
            images[key] = ObsSpec(shape=(height, width, channels // self.frames * frames), dtype=image.dtype)
        return self.model_copy(update={"observations": {**self.observations, **images}, "frames": frames})

    def entries(self, reads: Sequence[str]) -> tuple[str, ...]:
        """Names of the state entries in the groups `reads`, in the order of the state; empty `reads`: all.

        The group of an entry is the prefix of its name, e.g. ``object`` of ``object.dx``.

        Raises:
            ConfigError: a group without entries.
        """
        for group in reads:
            if group not in (groups := dict.fromkeys(map(_group, self.state_names))):
                raise unknown_name(f"group of state entries of {self.task}", group, groups)
        return tuple(name for name in self.state_names if not reads or _group(name) in reads)

    def check_policy(self, policy: EnvSpec, reads: Sequence[str] = ()) -> None:
        """Raise if observations or actions have a different meaning for a policy than in this environment.

        A policy may move between tasks and rewards. A policy that reads the full state is bound to its robot, observations and
        action scale. A policy with explicit state groups (`state_keys`) needs these, its cameras, and actions of the same
        names, units and frame, with any scale (see `ActionSpec.scale`): it may also move to another robot, unless it
        reads joints.

        Args:
            policy: the spec saved with the policy.
            reads: groups of state entries that it reads, see `entries`; empty: all.

        Raises:
            SpecMismatch: states the first difference on both sides.
        """
        theirs, ours = policy, self
        for what, a, b in _portable_sides(theirs, ours, reads) if reads else _exact_sides(theirs, ours):
            if a != b:
                raise SpecMismatch(
                    f"policy does not fit environment: {what} differ: policy ({theirs.task}) has {a}; "
                    f"environment ({ours.task}) has {b}"
                )


Sides = list[tuple[str, str, str]]
"""Compared property, and its value on either side."""


def _exact_sides(theirs: EnvSpec, ours: EnvSpec) -> Sides:
    return [
        ("robot", theirs.embodiment.name, ours.embodiment.name),
        ("control rate", f"{theirs.control_hz:g} Hz", f"{ours.control_hz:g} Hz"),
        ("observations", _shapes(theirs.observations), _shapes(ours.observations)),
        ("state entries", _extra(theirs.state_names, ours.state_names), _extra(ours.state_names, theirs.state_names)),
        ("action dimensions", " ".join(theirs.action.names), " ".join(ours.action.names)),
        ("action units", " ".join(theirs.action.units), " ".join(ours.action.units)),
        ("action scale", _numbers(theirs.action.scale), _numbers(ours.action.scale)),
        ("action center", _numbers(theirs.action.center), _numbers(ours.action.center)),
        ("discrete action dimensions", str(theirs.action.discrete), str(ours.action.discrete)),
        ("action frame", theirs.action.frame, ours.action.frame),
        ("order of state entries", " ".join(theirs.state_names), " ".join(ours.state_names)),
    ]


def _portable_sides(theirs: EnvSpec, ours: EnvSpec, reads: Sequence[str]) -> Sides:
    joints = ", ".join(group for group in reads if group in JOINTS)
    bodies = (theirs.embodiment.name, ours.embodiment.name) if joints else ("any", "any")
    wanted = {key: theirs.observations[key] for key in theirs.cameras}
    missing = [name for name in theirs.entries(reads) if name not in ours.state_names]
    return [
        (f"robot, whose joints ({joints}) are read,", *bodies),
        ("control rate", f"{theirs.control_hz:g} Hz", f"{ours.control_hz:g} Hz"),
        ("cameras", _shapes(wanted), _shapes({k: v for k, v in ours.observations.items() if k in wanted})),
        ("state entries", ", ".join(missing), "none of them" if missing else ""),
        ("action dimensions", " ".join(theirs.action.names), " ".join(ours.action.names)),
        ("action units", " ".join(theirs.action.units), " ".join(ours.action.units)),
        ("discrete action dimensions", str(theirs.action.discrete), str(ours.action.discrete)),
        ("action frame", theirs.action.frame, ours.action.frame),
    ]


def _group(name: str) -> str:
    return name.split(".", 1)[0]


def _shapes(observations: dict[str, ObsSpec]) -> str:
    return ", ".join(f"{k}{list(v.shape)}:{v.dtype}" for k, v in sorted(observations.items()))


def _extra(mine: tuple[str, ...], other: tuple[str, ...]) -> str:
    only = [n for n in mine if n not in other]
    return f"{len(mine)} entries" + (f" with {', '.join(only[:4])}{'…' if len(only) > 4 else ''}" if only else "")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:g}" for v in values)
