"""Common layout of several robots in one policy: state entries, actions and embodiment features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import JOINTS, ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.config import GeneralistConfig


@dataclass(frozen=True)
class RobotIO:
    """Mapping of one robot and task to an `EmbodimentLayout` of S state entries and A action dimensions."""

    features: Tensor
    """[E] embodiment and task features for the policy."""
    columns: Tensor
    """[S] int64, position of each entry in the robot's own state; 0 for missing entries."""
    present: Tensor
    """[S] bool, entries that the robot has."""
    dims: Tensor
    """[A'] int64, layout index of each of the robot's own A' action dimensions."""
    own: Tensor
    """[A] bool, action dimensions that the robot has."""
    rescale: Tensor
    """[A] factors for continuous actions that preserve their physical size in the robot's own range."""


class EmbodimentLayout:
    """Union of the state entries and actions of several robots, each with a task.

    State entries are identified by name and included if any robot has them; entries that a robot lacks read zero (after
    whitening). Actions likewise: ±1 has the size that it has for the robot with the largest range, and a robot ignores
    dimensions that it lacks. Embodiment features are the normalized descriptor or a one-hot, plus a one-hot of the task if
    there are several. Descriptor entries of other robots are clamped to the range of the members: networks do not extrapolate
    reliably.

    Attributes:
        spec: an environment with all entries; its names are in the order of the layout.
        robots: names of the robots.
        tasks: names of the tasks.
        descriptor_entries: entries of the descriptor that the policy reads.

    Raises:
        ConfigError: a robot lacks a descriptor or a requested entry, or no robot has a requested group of state entries.
        SpecMismatch: two robots or tasks are incompatible; names both sides.
    """

    def __init__(self, members: Sequence[EnvSpec], reads: Sequence[str], config: GeneralistConfig) -> None:
        for other in members[1:]:
            _check_together(members[0], other)
        self.members, self.embodiment = tuple(members), config.embodiment
        self.spec = _union(members, reads)
        self.tasks = tuple(dict.fromkeys(spec.task for spec in members))
        bodies = {spec.embodiment.name: spec.embodiment for spec in members}
        self.robots = tuple(bodies)
        self.descriptor_entries: tuple[str, ...] = ()
        if config.embodiment == "descriptor":
            self.descriptor_entries, known = _descriptors(list(bodies.values()), config.descriptor_keys)
            self._low, self._high = known.amin(0), known.amax(0)
            self._mean, self._std = known.mean(0), known.std(0, correction=0)
        elif config.descriptor_keys:
            raise ConfigError(
                f"descriptor_keys {' '.join(config.descriptor_keys)} does nothing with embodiment {config.embodiment}"
            )
        self._common = [n for n in self.spec.state_names if all(n in spec.state_names for spec in members)]

    @property
    def features(self) -> int:
        """Number of entries E of `RobotIO.features`."""
        return len(self._embodiment_features(self.members[0]))

    def is_member(self, spec: EnvSpec) -> bool:
        """Return whether a robot is one of the members."""
        return spec.embodiment.name in self.robots

    def robot_io(self, spec: EnvSpec) -> RobotIO:
        """Map a robot and task, a member or another one, to the layout.

        Raises:
            SpecMismatch: it does not fit; names both sides.
            ConfigError: it has no descriptor.
        """
        self._check(spec)
        ours, theirs = self.spec.action, spec.action
        dims = [ours.names.index(name) for name in theirs.names]
        rescale = torch.ones(ours.dim)
        for i, scale, discrete in zip(dims, theirs.scale, theirs.discrete, strict=True):
            rescale[i] = 1.0 if discrete else ours.scale[i] / scale
        own = torch.zeros(ours.dim, dtype=torch.bool)
        own[dims] = True
        where = {name: i for i, name in enumerate(spec.state_names)}
        return RobotIO(
            features=self._embodiment_features(spec),
            columns=torch.tensor([where.get(name, 0) for name in self.spec.state_names]),
            present=torch.tensor([name in where for name in self.spec.state_names]),
            dims=torch.tensor(dims),
            own=own,
            rescale=rescale,
        )

    def _embodiment_features(self, spec: EnvSpec) -> Tensor:
        """Embodiment and task features [E] of a robot and its task."""
        parts = [torch.zeros(0)]
        if self.embodiment == "descriptor":
            values = _descriptor_values(spec.embodiment, self.descriptor_entries, self.robots)
            parts.append(((values.clamp(self._low, self._high) - self._mean) / self._std).float())
        elif self.embodiment == "one-hot":
            parts.append(torch.tensor([float(name == spec.embodiment.name) for name in self.robots]))
        if len(self.tasks) > 1:
            parts.append(torch.tensor([float(name == spec.task) for name in self.tasks]))
        return torch.cat(parts)

    def _check(self, spec: EnvSpec) -> None:
        """Refuse an incompatible robot or task."""
        _check_together(self.members[0], spec)
        if len(self.tasks) > 1 and spec.task not in self.tasks:
            raise SpecMismatch(
                f"a generalist of the tasks {', '.join(self.tasks)} needs one of them: environment is {spec.task}"
            )
        joints = any(name.split(".", 1)[0] in JOINTS for name in self.spec.state_names)
        stranger = spec.embodiment.name if joints and not self.is_member(spec) else ""
        missing = [name for name in self._common if name not in spec.state_names]
        extra = [name for name in spec.action.names if name not in self.spec.action.names]
        for what, a, b in (
            ("robots, whose joints are read,", ", ".join(self.robots), stranger),
            ("state entries", ", ".join(missing[:6]), "none of them" if missing else ""),
            ("action dimensions", " ".join(self.spec.action.names), f"also {' '.join(extra)}" if extra else ""),
        ):
            if b:
                raise SpecMismatch(
                    f"policy does not fit environment: {what} differ: generalist of {', '.join(self.robots)} has {a}; "
                    f"environment ({spec.task} on {spec.embodiment.name}) has {b}"
                )


def _check_together(a: EnvSpec, b: EnvSpec) -> None:
    """Refuse two environments that one policy cannot act in."""
    shared = [name for name in a.action.names if name in b.action.names]
    for what, ours, theirs in (
        ("observations", _keys(a), _keys(b)),
        ("control rate", f"{a.control_hz:g} Hz", f"{b.control_hz:g} Hz"),
        ("action frame", a.action.frame, b.action.frame),
        ("action dimensions", " ".join(a.action.names), " ".join(b.action.names) if not shared else " ".join(a.action.names)),
        ("action units", _describe_actions(a.action, shared), _describe_actions(b.action, shared)),
    ):
        if ours != theirs:
            raise SpecMismatch(f"cannot be one policy: {what} differ: {_title(a)} has {ours}; {_title(b)} has {theirs}")


def _union(members: Sequence[EnvSpec], reads: Sequence[str]) -> EnvSpec:
    """Environment with every state entry that the policy reads and every action dimension, in order of appearance."""
    groups = dict.fromkeys(name.split(".", 1)[0] for spec in members for name in spec.state_names)
    if unknown := [group for group in reads if group not in groups]:
        raise ConfigError(
            f"no robot has state entries of the group {', '.join(unknown)}: {', '.join(map(_title, members))} have "
            f"{', '.join(groups)}"
        )
    scaled: dict[str, bool] = {}
    for spec in members:
        flags = spec.state_scaled or (False,) * len(spec.state_names)
        for name, flag in zip(spec.state_names, flags, strict=True):
            if not reads or name.split(".", 1)[0] in reads:
                scaled[name] = scaled.get(name, True) and flag
    actions: dict[str, tuple[str, float, bool]] = {}
    for spec in members:
        for name, unit, scale, discrete in zip(
            spec.action.names, spec.action.units, spec.action.scale, spec.action.discrete, strict=True
        ):
            _, known, _ = actions.get(name, (unit, 0.0, discrete))
            actions[name] = (unit, max(known, scale, key=abs), discrete)  # rotations have negative scales in ManiSkill
    units, scales, discretes = zip(*actions.values(), strict=True)
    action = ActionSpec(names=tuple(actions), units=units, scale=scales, discrete=discretes, frame=members[0].action.frame)
    cameras = {key: members[0].observations[key] for key in members[0].cameras}
    return members[0].model_copy(
        update={
            "observations": {"state": ObsSpec(shape=(len(scaled),), dtype="float32"), **cameras},
            "state_names": tuple(scaled),
            "state_scaled": tuple(scaled.values()),
            "action": action,
        }
    )


def _descriptors(bodies: Sequence[Embodiment], describe: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """Names of the descriptor entries that the policy reads, and their values for all robots [R, D]."""
    robots = [body.name for body in bodies]
    if bare := [body.name for body in bodies if not body.descriptor]:
        described = [body.name for body in bodies if body.descriptor]
        raise ConfigError(
            f"{', '.join(bare)} has no descriptor, which distinguishes {', '.join(described) or 'robots'}: add "
            "one (Embodiment.descriptor), or use --embodiment one-hot"
        )
    names = tuple(describe) or tuple(name for name in bodies[0].descriptor if all(name in b.descriptor for b in bodies))
    values = torch.stack([_descriptor_values(body, names, robots) for body in bodies])  # [R, D]
    differs = values.std(0, correction=0) > 1e-9
    if describe and not differs.all() and len(bodies) > 1:
        same = [name for name, differ in zip(names, differs.tolist(), strict=True) if not differ]
        raise ConfigError(
            f"descriptor_keys {', '.join(same)}: the same on {', '.join(robots)}, so nothing can be learned from it"
        )
    kept = tuple(name for name, differ in zip(names, differs.tolist(), strict=True) if differ)
    if not kept and len(bodies) > 1:
        raise ConfigError(f"the descriptors of {', '.join(robots)} do not distinguish them: use --embodiment one-hot")
    return kept, values[:, differs]


def _descriptor_values(body: Embodiment, names: Sequence[str], robots: Sequence[str]) -> Tensor:
    """Descriptor entries of a robot [D], double precision."""
    if not body.descriptor:
        raise ConfigError(f"{body.name} has no descriptor, which distinguishes {', '.join(robots)} (Embodiment.descriptor)")
    if missing := [name for name in names if name not in body.descriptor]:
        has = [name for name in names if name in body.descriptor] or list(body.descriptor)
        raise ConfigError(
            f"{body.name} has no descriptor entry {_abbreviate(missing)}, which distinguishes {', '.join(robots)}; it has "
            f"{_abbreviate(has)}: choose entries that all robots have with --generalist.descriptor-keys"
        )
    return torch.tensor([body.descriptor[name] for name in names], dtype=torch.float64)


def _abbreviate(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")


def _title(spec: EnvSpec) -> str:
    return f"{spec.task} on {spec.embodiment.name}"


def _keys(spec: EnvSpec) -> str:
    shapes = {key: str(list(spec.observations[key].shape)) for key in spec.cameras}
    return ", ".join(f"{key}{shapes.get(key, '')}" for key in sorted(spec.observations))


def _describe_actions(action: ActionSpec, names: Sequence[str]) -> str:
    parts = []
    for name in names:
        i = action.names.index(name)
        parts.append(f"{name} {'±1 only' if action.discrete[i] else action.units[i]}")
    return ", ".join(parts)
