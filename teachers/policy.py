"""A saved student as a teacher."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.actor_critic import ActorCritic
from students.locate import resolve_policy
from teachers.base import Teacher, TeacherOutput
from teachers.registry import Options, parse_options


class PolicyTeacher(Teacher):
    """Labels with the action distribution of a saved policy."""

    provides = frozenset({"mean", "std"})

    def __init__(self, policy: ActorCritic, name: str = "policy") -> None:
        """Freeze a policy."""
        self.policy = policy.eval().requires_grad_(False)
        self.name = name

    def check_env(self, spec: EnvSpec) -> None:
        """See `EnvSpec.check_policy`."""
        spec.check_policy(self.policy.spec)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Return the distribution's mean, clipped to what the environment would execute, and its std."""
        distribution = self.policy.distribution(obs)
        mean = distribution.mean.clamp(-1, 1)
        return TeacherOutput(mean, valid=mean.new_ones(len(mean), dtype=torch.bool), std=distribution.std)

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.policy.device


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> PolicyTeacher:
    """Build ``policy:RUN``; see `teachers.registry`.

    Raises:
        ConfigError: no such policy, or a damaged one.
    """
    if argument is None:
        raise ConfigError("teacher 'policy' needs a run, a checkpoint or a policy folder, e.g. policy:runs/x")
    parse_options(Options, options, "policy")
    return PolicyTeacher(ActorCritic.from_pretrained(resolve_policy(argument), device))
