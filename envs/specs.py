"""What a policy must know about an environment to be used elsewhere: saved inside every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from envs.errors import SpecMismatch, unknown_name
from envs.privileged import Course, Scene

JOINTS = ("q", "dq", "qpos", "qvel")
"""Groups of state entries that mean something on one robot only."""


class Spec(BaseModel):
    """An immutable, validated value that travels as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ActionSpec(Spec):
    """A normalised action space: every dimension in [-1, 1].

    Attributes:
        names: one name per dimension, e.g. ``("x", "y", "z", "roll", "pitch", "yaw", "gripper")``.
        units: physical unit of each dimension, e.g. ``"m"``, ``"rad"``.
        scale: what +1 means in that unit (for a delta: per control step).
        discrete: dimensions that only mean their sign (a gripper: +1 opens, -1 closes).
        frame: the frame in which Cartesian deltas are expressed, e.g. ``"base"``.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    discrete: tuple[bool, ...]
    frame: str = "base"

    @property
    def dim(self) -> int:
        """Number of action dimensions A."""
        return len(self.names)


class ObsSpec(Spec):
    """Shape (without the batch) and dtype of one observation key."""

    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8"]


class Embodiment(Spec):
    """A robot as a policy sees it.

    Attributes:
        name: registry name, e.g. ``"panda"``.
        num_joints: arm joints, without the gripper.
        descriptor: physics by name (reach in m, gripper opening in m, joint limits in rad, gains...),
            so that a policy can be conditioned on physics rather than on an index.
    """

    name: str
    num_joints: int
    descriptor: dict[str, float]


class EnvSpec(Spec):
    """Everything that ties a policy to an environment.

    Attributes:
        task: registry name, e.g. ``"tabletop/PickCube"``.
        embodiment: the robot.
        observations: what a student may see, by key: ``"state"``, ``"image.<camera>"``. The key
            ``"privileged"`` is never listed: it is for teachers (see `scene` and `course`).
        state_names: one name per entry of ``"state"``.
        state_scaled: which of its entries are of order one as they are (none where empty) and must not be whitened with
            running statistics: those blow up what seldom changes, such as a touch or a goal, when it does.
        action: the action space.
        control_hz: control steps per second.
        max_episode_steps: control steps before an episode is truncated.
        reward: reward mode, e.g. ``"dense"`` or ``"sparse"``.
        scene: whether observations carry ``"privileged"`` for teachers, laid out as `Scene` (manipulation).
        oriented: whether the scene's object has to be turned as the target is: `Scene.relative` then tells how far it is not.
        course: whether they carry it laid out as `Course` (navigation).
        frames: frames per image, one behind the other in its 3 `frames` channels, the newest last (see `envs.frames`).
        rendering: how images are rendered, where there is a choice (see `envs.base.EnvConfig.rendering`).
    """

    task: str
    embodiment: Embodiment
    observations: dict[str, ObsSpec]
    state_names: tuple[str, ...]
    state_scaled: tuple[bool, ...] = ()
    action: ActionSpec
    control_hz: float
    max_episode_steps: int
    reward: str
    scene: bool = False
    oriented: bool = False
    course: bool = False
    frames: int = 1
    rendering: str | None = None

    @property
    def layout(self) -> type[Scene] | type[Course] | None:
        """What ``"privileged"`` is laid out as."""
        return Scene if self.scene else Course if self.course else None

    def relative(self, privileged: Tensor) -> Tensor:
        """What a critic may know [N, F], of order one: `Scene.relative` or `Course.relative` of [N, dim]."""
        return Course.relative(privileged) if self.course else Scene.relative(privileged, self.oriented)

    @property
    def cameras(self) -> list[str]:
        """Keys of the images among the observations."""
        return sorted(key for key in self.observations if key.startswith("image."))

    def stacked(self, frames: int) -> EnvSpec:
        """The same with `frames` frames per image; 1: as a camera takes them."""
        images = {key: self.observations[key] for key in self.cameras}
        for key, image in images.items():
            height, width, channels = image.shape
            images[key] = ObsSpec(shape=(height, width, channels // self.frames * frames), dtype=image.dtype)
        return self.model_copy(update={"observations": {**self.observations, **images}, "frames": frames})

    def entries(self, reads: Sequence[str]) -> tuple[str, ...]:
        """Names of the state entries in the groups `reads`, in the order of the state; all where it is empty.

        An entry's group is what its name begins with, e.g. ``object`` of ``object.dx``.

        Raises:
            ConfigError: a group without entries.
        """
        for group in reads:
            if group not in (groups := dict.fromkeys(map(_group, self.state_names))):
                raise unknown_name(f"group of state entries of {self.task}", group, groups)
        return tuple(name for name in self.state_names if not reads or _group(name) in reads)

    def check_policy(self, policy: EnvSpec, reads: Sequence[str] = ()) -> None:
        """Refuse a policy for which what goes in or what comes out would mean something else here.

        A policy may move between tasks and rewards. One that reads all of the state belongs to one robot, observations and
        action scale. One that says which entries it reads (`reads`) needs those and its cameras, whatever else there is,
        and actions of the same names, units and frame, whatever +1 means (see `ActionSpec.scale`): then it may also move
        to another robot, unless it reads joints.

        Args:
            policy: the spec saved with the policy.
            reads: the groups of state entries that it reads, see `entries`; empty: all.

        Raises:
            SpecMismatch: naming the first difference on both sides.
        """
        theirs, ours = policy, self
        for what, a, b in _portable_sides(theirs, ours, reads) if reads else _exact_sides(theirs, ours):
            if a != b:
                raise SpecMismatch(
                    f"policy does not fit environment: {what} differ: policy ({theirs.task}) has {a}; "
                    f"environment ({ours.task}) has {b}"
                )


Sides = list[tuple[str, str, str]]
"""What is compared, and how it is on either side."""


def _exact_sides(theirs: EnvSpec, ours: EnvSpec) -> Sides:
    return [
        ("robot", theirs.embodiment.name, ours.embodiment.name),
        ("control rate", f"{theirs.control_hz:g} Hz", f"{ours.control_hz:g} Hz"),
        ("observations", _shapes(theirs.observations), _shapes(ours.observations)),
        ("state entries", _extra(theirs.state_names, ours.state_names), _extra(ours.state_names, theirs.state_names)),
        ("action dimensions", " ".join(theirs.action.names), " ".join(ours.action.names)),
        ("action units", " ".join(theirs.action.units), " ".join(ours.action.units)),
        ("action scale", _numbers(theirs.action.scale), _numbers(ours.action.scale)),
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
