"""A saved student as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students import pretrained
from students.actor_critic import ActorCritic
from students.diffusion.policy import DiffusionPolicy
from students.locate import resolve_policy
from students.residual import ACTION
from teachers import registry
from teachers.base import Teacher, TeacherOutput, Views
from teachers.diffusion import DiffusionOptions, DiffusionTeacher
from teachers.registry import Options, parse_options


def with_proposal(obs: TensorDict, base: Teacher | None, instructions: list[str]) -> TensorDict:
    """Put what a teacher would do beside observations [N], for a policy that corrects it (`ActorCritic.outside`).

    Args:
        obs: with what the teacher sees.
        base: the teacher; None: `obs` is returned as it is.
        instructions: N strings.
    """
    if base is None:
        return obs
    action = base.act(obs.to(base.device), instructions).clamp(-1, 1)
    return cast("TensorDict", obs.copy()).set(ACTION, action.to(obs.device or "cpu"))


class BesideBase:
    """A policy that may correct a teacher: who resets or seeds the one, does so with the other."""

    base: Teacher | None = None

    def reset(self, mask: Tensor) -> None:
        """See `Teacher.reset`."""
        if self.base is not None:
            self.base.reset(mask)

    def seed(self, seed: int) -> None:
        """See `Teacher.seed`."""
        if self.base is not None:
            self.base.seed(seed)


def outside_base(policy: ActorCritic, spec: EnvSpec, device: torch.device) -> Teacher | None:
    """Build the teacher whose actions a policy corrects, if it does (`ActorCritic.outside`).

    Raises:
        ConfigError: see `teachers.registry.make`.
    """
    return None if policy.outside is None else registry.make(policy.outside, spec, device)


class PolicyTeacher(BesideBase, Teacher):
    """Labels with the action distribution of a saved policy."""

    provides = frozenset({"mean", "std"})

    def __init__(self, policy: ActorCritic, name: str = "policy", base: Teacher | None = None) -> None:
        """Freeze a policy, and with it the teacher that it corrects, if it does."""
        self.policy = policy.eval().requires_grad_(False)
        self.name, self.base = name, base
        self.looks = base is not None and base.looks
        self.wants_all = base is not None and base.wants_all

    def check_env(self, spec: EnvSpec) -> None:
        """See `ActorCritic.fit`."""
        self.policy.fit(spec)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Return the distribution's mean, clipped to what the environment would execute, and its std."""
        distribution = self.policy.distribution(with_proposal(obs, self.base, instructions))
        mean = distribution.mean.clamp(-1, 1)
        return TeacherOutput(mean, valid=mean.new_ones(len(mean), dtype=torch.bool), std=distribution.std)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Teacher.state_dict`."""
        return {} if self.base is None else self.base.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `Teacher.load_state_dict`."""
        if self.base is not None:
            self.base.load_state_dict(state)

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.policy.device


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``policy:RUN``; see `teachers.registry`.

    Raises:
        ConfigError: no such policy, or a damaged one.
    """
    if argument is None:
        raise ConfigError("teacher 'policy' needs a run, a checkpoint or a policy folder, e.g. policy:runs/x")
    return frozen(argument, "policy", spec, device, options)


def frozen(
    path: str | Path, name: str, spec: EnvSpec | None, device: torch.device | str, options: dict[str, str] | None = None
) -> PolicyTeacher | DiffusionTeacher:
    """Load a policy of any kind as a teacher.

    Args:
        path: a run, a checkpoint or a policy folder.
        name: the teacher's.
        spec: of the environment; None: the policy's own, and it may correct nobody.
        device: where it computes.
        options: of a diffusion policy, see `DiffusionOptions`; others have none.

    Raises:
        ConfigError: no such policy, a damaged one, or a bad option.
    """
    policy = pretrained.load(resolve_policy(path), device)
    if isinstance(policy, DiffusionPolicy):
        return DiffusionTeacher(policy, name, parse_options(DiffusionOptions, options or {}, "policy"))
    parse_options(Options, options or {}, "policy")
    base = None if spec is None else outside_base(policy, spec, torch.device(device))
    return PolicyTeacher(policy, name, base)


def needs(argument: str | None, options: dict[str, str]) -> Views:
    """What the teacher that the policy corrects must see, if it corrects one."""
    base = None if argument is None else pretrained.describe(resolve_policy(argument)).base
    return registry.needs(base) if isinstance(base, str) else Views()
