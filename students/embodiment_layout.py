"""Several robots in one policy: their state entries and actions in one order, and each robot as a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.errors import ConfigError, SpecMismatch
from envs.specs import JOINTS, ActionSpec, Embodiment, EnvSpec, ObsSpec
from students.config import GeneralistConfig


@dataclass(frozen=True)
class Body:
    """How one robot, at one task, fits into a `Layout` of S state entries and A action dimensions."""

    features: Tensor
    """[E] what a policy is told of the robot and the task."""
    columns: Tensor
    """[S] int64, where each entry is in the robot's own state; 0 where it has none."""
    present: Tensor
    """[S] bool, which entries it has."""
    dims: Tensor
    """[A'] int64, which of the A dimensions each of its own A' is."""
    own: Tensor
    """[A] bool, which dimensions it has."""
    rescale: Tensor
    """[A] by which a continuous action is multiplied to mean, in the robot's own range, the same physical size."""


class Layout:
    """What several robots, each at a task, have in common.

    State entries are identified by their names, and are there if any robot has them; a robot without one reads zero (after
    whitening). Actions likewise: ±1 means what it means to the robot that goes furthest, and a robot without a dimension
    ignores it. A robot's body is told as its normalised descriptor or by one-hot, a task by one-hot where there are several. Of
    another robot, each entry of the descriptor is moved into the range that its own robots have: beyond it, a network only
    seems to know something.

    Attributes:
        spec: an environment that has everything; its names are in the layout's order.
        robots: names of the robots.
        tasks: names of the tasks.
        described: entries of the descriptor that are read.

    Raises:
        ConfigError: a robot without a descriptor, or without an entry that is asked for; a group of state entries that none
            of them has.
        SpecMismatch: two robots or tasks that cannot be one policy's; names both sides.
    """

    def __init__(self, members: Sequence[EnvSpec], reads: Sequence[str], config: GeneralistConfig) -> None:
        for other in members[1:]:
            _check_together(members[0], other)
        self.members, self.embodiment = tuple(members), config.embodiment
        self.spec = _union(members, reads)
        self.tasks = tuple(dict.fromkeys(spec.task for spec in members))
        bodies = {spec.embodiment.name: spec.embodiment for spec in members}
        self.robots = tuple(bodies)
        self.described: tuple[str, ...] = ()
        if config.embodiment == "descriptor":
            self.described, known = _known(list(bodies.values()), config.describe)
            self._low, self._high = known.amin(0), known.amax(0)
            self._mean, self._std = known.mean(0), known.std(0, correction=0)
        elif config.describe:
            raise ConfigError(f"describe {' '.join(config.describe)} does nothing with embodiment {config.embodiment}")
        self._common = [n for n in self.spec.state_names if all(n in spec.state_names for spec in members)]

    @property
    def features(self) -> int:
        """Number of entries E of `Body.features`."""
        return len(self._tell(self.members[0]))

    def knows(self, spec: EnvSpec) -> bool:
        """Whether a robot is one of those that it was made for."""
        return spec.embodiment.name in self.robots

    def body(self, spec: EnvSpec) -> Body:
        """Fit a robot at a task in: a member, or another.

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
        return Body(
            features=self._tell(spec),
            columns=torch.tensor([where.get(name, 0) for name in self.spec.state_names]),
            present=torch.tensor([name in where for name in self.spec.state_names]),
            dims=torch.tensor(dims),
            own=own,
            rescale=rescale,
        )

    def _tell(self, spec: EnvSpec) -> Tensor:
        """What a policy is told of a robot and its task [E]."""
        parts = [torch.zeros(0)]
        if self.embodiment == "descriptor":
            values = _numbers(spec.embodiment, self.described, self.robots)
            parts.append(((values.clamp(self._low, self._high) - self._mean) / self._std).float())
        elif self.embodiment == "one-hot":
            parts.append(torch.tensor([float(name == spec.embodiment.name) for name in self.robots]))
        if len(self.tasks) > 1:
            parts.append(torch.tensor([float(name == spec.task) for name in self.tasks]))
        return torch.cat(parts)

    def _check(self, spec: EnvSpec) -> None:
        """Refuse a robot or task that the policy cannot act for."""
        _check_together(self.members[0], spec)
        if len(self.tasks) > 1 and spec.task not in self.tasks:
            raise SpecMismatch(
                f"a generalist of the tasks {', '.join(self.tasks)} is told which one it does: environment is {spec.task}"
            )
        joints = any(name.split(".", 1)[0] in JOINTS for name in self.spec.state_names)
        stranger = spec.embodiment.name if joints and not self.knows(spec) else ""
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
    """Refuse two environments that no policy can act in both of."""
    shared = [name for name in a.action.names if name in b.action.names]
    for what, ours, theirs in (
        ("observations", _keys(a), _keys(b)),
        ("control rate", f"{a.control_hz:g} Hz", f"{b.control_hz:g} Hz"),
        ("action frame", a.action.frame, b.action.frame),
        ("action dimensions", " ".join(a.action.names), " ".join(b.action.names) if not shared else " ".join(a.action.names)),
        ("action units", _meaning(a.action, shared), _meaning(b.action, shared)),
    ):
        if ours != theirs:
            raise SpecMismatch(f"cannot be one policy: {what} differ: {_title(a)} has {ours}; {_title(b)} has {theirs}")


def _union(members: Sequence[EnvSpec], reads: Sequence[str]) -> EnvSpec:
    """An environment with every state entry that is read and every action dimension, in order of appearance."""
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
            actions[name] = (unit, max(known, scale, key=abs), discrete)  # ManiSkill's turns have negative scales
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


def _known(bodies: Sequence[Embodiment], describe: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """Names of the descriptor entries that are read, and those of all robots [R, D]."""
    robots = [body.name for body in bodies]
    if bare := [body.name for body in bodies if not body.descriptor]:
        described = [body.name for body in bodies if body.descriptor]
        raise ConfigError(
            f"{', '.join(bare)} has no descriptor, which {', '.join(described) or 'a generalist'} is told apart by: give it "
            "one (Embodiment.descriptor), or use --embodiment one-hot"
        )
    names = tuple(describe) or tuple(name for name in bodies[0].descriptor if all(name in b.descriptor for b in bodies))
    values = torch.stack([_numbers(body, names, robots) for body in bodies])  # [R, D]
    differs = values.std(0, correction=0) > 1e-9
    if describe and not differs.all() and len(bodies) > 1:
        same = [name for name, differ in zip(names, differs.tolist(), strict=True) if not differ]
        raise ConfigError(f"describe {', '.join(same)}: the same on {', '.join(robots)}, so nothing can be learnt from it")
    kept = tuple(name for name, differ in zip(names, differs.tolist(), strict=True) if differ)
    if not kept and len(bodies) > 1:
        raise ConfigError(f"nothing in the descriptors of {', '.join(robots)} tells them apart: use --embodiment one-hot")
    return kept, values[:, differs]


def _numbers(body: Embodiment, names: Sequence[str], robots: Sequence[str]) -> Tensor:
    """Entries of a robot's descriptor [D], double precision."""
    if not body.descriptor:
        raise ConfigError(f"{body.name} has no descriptor, which {', '.join(robots)} are told apart by (Embodiment.descriptor)")
    if missing := [name for name in names if name not in body.descriptor]:
        has = [name for name in names if name in body.descriptor] or list(body.descriptor)
        raise ConfigError(
            f"{body.name} has no descriptor entry {_some(missing)}, which {', '.join(robots)} are told apart by; it has "
            f"{_some(has)}: choose with --generalist.describe what all have"
        )
    return torch.tensor([body.descriptor[name] for name in names], dtype=torch.float64)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")


def _title(spec: EnvSpec) -> str:
    return f"{spec.task} on {spec.embodiment.name}"


def _keys(spec: EnvSpec) -> str:
    shapes = {key: str(list(spec.observations[key].shape)) for key in spec.cameras}
    return ", ".join(f"{key}{shapes.get(key, '')}" for key in sorted(spec.observations))


def _meaning(action: ActionSpec, names: Sequence[str]) -> str:
    parts = []
    for name in names:
        i = action.names.index(name)
        parts.append(f"{name} {'±1 only' if action.discrete[i] else action.units[i]}")
    return ", ".join(parts)
