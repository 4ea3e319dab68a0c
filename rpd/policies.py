"""Whatever can act in an environment, by name: students, teachers, and two that know nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import VectorEnv
from envs.errors import ConfigError, unknown_name
from envs.specs import EnvSpec
from rpd.export import is_exported
from rpd.runs import near
from teachers.policy import BesideBase, outside_base, with_proposal

if TYPE_CHECKING:
    from students.actor_critic import ActorCritic
    from teachers.base import Teacher

_TEACHER = "teacher:"


class Policy(Protocol):
    """What evaluation needs. A `teachers.base.Teacher` is one."""

    name: str
    """How it is called in results."""
    looks: bool
    """Whether its observations hold what only a teacher sees, `VectorEnv.look`."""

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] in [-1, 1] for N observations and instructions."""

    def reset(self, mask: Tensor) -> None:
        """Forget what belongs to the episodes of environments where mask [N] is True."""

    def seed(self, seed: int) -> None:
        """Make what is random about the policy reproducible."""


class Memoryless:
    """A policy without memory or chance, that sees what a student sees."""

    looks = False

    def reset(self, mask: Tensor) -> None:
        """Nothing to forget."""

    def seed(self, seed: int) -> None:
        """Nothing is random."""


class ZeroPolicy(Memoryless):
    """Never moves: what the task gives away for nothing."""

    name = "zero"

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return zeros [N, A]."""
        return torch.zeros(len(instructions), self.action_dim, device=obs.device)


class RandomPolicy(Memoryless):
    """Uniform actions in [-1, 1]."""

    name = "random"

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim
        self.generator = torch.Generator()

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return uniform actions [N, A]."""
        return (2 * torch.rand(len(instructions), self.action_dim, generator=self.generator) - 1).to(obs.device or "cpu")

    def seed(self, seed: int) -> None:
        """Start the same sequence of actions again."""
        self.generator.manual_seed(seed)


class StudentPolicy(BesideBase):
    """A student, acting deterministically; with the teacher that it corrects, if it does (`ActorCritic.outside`)."""

    def __init__(self, student: ActorCritic, name: str = "student", base: Teacher | None = None) -> None:
        self.student, self.base = student, base
        self.name = name
        self.looks = base is not None and base.looks

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the student's deterministic actions [N, A]."""
        return self.student.act(with_proposal(obs, self.base, instructions), deterministic=True)


def teacher_of(name: str | None) -> str | None:
    """Return the teacher that ``teacher:NAME`` names; None for the name of anything else, or of nothing."""
    return name.removeprefix(_TEACHER) if name is not None and name.startswith(_TEACHER) else None


def trained(name: str) -> Path | None:
    """Return the path that a policy's name is, None where it is one of the built-in names.

    Raises:
        ConfigError: neither; names the nearest.
    """
    if name in ("zero", "random") or teacher_of(name) is not None:
        return None
    if not Path(name).exists():
        raise unknown_name("policy", name, ["zero", "random", "teacher:<name>", *(near(Path(name)) or ["<folder>"])])
    return Path(name)


def resolve(name: str, env: VectorEnv, sampler: str | None = None) -> Policy:
    """Build a policy from what a person writes on a command line.

    Args:
        name: ``zero``, ``random``, ``teacher:<teacher>``, or the path of a run, a checkpoint, a policy folder or an
            exported policy.
        env: the environment it will act in; the policy computes on its device.
        sampler: how a diffusion policy draws, see `students.diffusion.samplers`; None: its default.

    Raises:
        ConfigError: nothing of that name, or a damaged policy, or one that does not draw through a sampler.
        SpecMismatch: the policy was made for another environment; names both sides.
    """
    path = trained(name)
    if path is not None and is_exported(path):
        from rpd.export.policy import ExportedPolicy

        _no_sampler(name, sampler)
        return ExportedPolicy(path, env.spec)
    if path is not None:
        return load(path, name, env.spec, env.device, sampler)
    _no_sampler(name, sampler)
    if (teacher := teacher_of(name)) is not None:
        from teachers.registry import make

        return make(teacher, env.spec, env.device)
    return ZeroPolicy(env.spec.action.dim) if name == "zero" else RandomPolicy(env.spec.action.dim)


def load(path: Path, name: str, spec: EnvSpec, device: torch.device, sampler: str | None = None) -> Policy:
    """Load a trained policy of any kind, to act in an environment.

    Args:
        path: a run, a checkpoint or a policy folder.
        name: how it is called in results.
        spec: of the environment.
        device: where it computes.
        sampler: see `resolve`.

    Raises:
        ConfigError: see `resolve`.
        SpecMismatch: the policy was made for another environment; names both sides.
    """
    from students import pretrained
    from students.diffusion.actor import DiffusionActor
    from students.diffusion.policy import DiffusionPolicy
    from students.locate import resolve_policy

    student = pretrained.load(resolve_policy(path), device)
    student.fit(spec)
    if isinstance(student, DiffusionPolicy):
        return DiffusionActor(student, sampler, name)
    _no_sampler(name, sampler)
    return StudentPolicy(student, name, outside_base(student, spec, device))


def _no_sampler(name: str, sampler: str | None) -> None:
    if sampler is not None:
        raise ConfigError(f"--sampler {sampler}: {name} is no diffusion policy, and answers in one pass: leave it out")
