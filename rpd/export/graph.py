"""A student as a function of plain tensors, as required by exporters."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.generalist import GeneralistActorCritic
from rpd.students.residual import ResidualActorCritic


class ExpandState(nn.Module):
    """Expands the state entries that a policy reads to the full state that it was trained on."""

    place: Tensor

    def __init__(self, spec: EnvSpec, whole: EnvSpec) -> None:
        super().__init__()
        # Index of each entry of the full state; unused entries map to an appended zero.
        places = {name: i for i, name in enumerate(spec.state_names)}
        index = [places.get(name, len(places)) for name in whole.state_names]
        self.register_buffer("place", torch.tensor(index), persistent=False)
        self._same = len(places) == len(index)

    def forward(self, state: Tensor) -> Tensor:
        """[N, S'] -> [N, S]."""
        return state if self._same else torch.cat([state, torch.zeros_like(state[:, :1])], dim=-1)[:, self.place]


class DeterministicPolicy(nn.Module):
    """Deterministic action [N, A] of a policy, including normalizer and base, from one tensor [N, ...] per observation.

    Attributes:
        keys: observation keys, in the order of the arguments.
        spec: spec of the environment, with only the state entries that are read: a robot need not provide the others.
    """

    def __init__(self, policy: ActorCritic, whole: EnvSpec) -> None:
        """Copy a policy without its critics.

        Args:
            policy: any student.
            whole: spec of the environment that the policy is adapted to.

        Raises:
            ConfigError: a residual policy on a teacher, which is not part of it.
        """
        super().__init__()
        self.policy = _without_critics(policy)
        self.spec, self.keys = with_state_entries(whole, _entries(policy, whole)), ["state", *whole.cameras]
        self.widen = ExpandState(self.spec, whole)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the action [N, A] in [-1, 1]; arguments in the order of `keys`."""
        obs = dict(zip(self.keys, inputs, strict=True))
        obs["state"] = self.widen(obs["state"])
        return self.policy.distribution(obs).mode().clamp(-1, 1)


def _entries(policy: ActorCritic, spec: EnvSpec) -> set[str]:
    """State entries that a policy or its base reads."""
    columns = policy.columns[policy.present] if isinstance(policy, GeneralistActorCritic) else policy.columns
    read = {spec.state_names[column] for column in columns.tolist()}
    if isinstance(policy, ResidualActorCritic):
        if policy.base is None:
            raise ConfigError(
                f"the policy corrects teacher {policy.outside}, which is not part of it: let `rpd serve` answer with both"
            )
        read |= _entries(policy.base, spec)
    return read


def with_state_entries(spec: EnvSpec, read: Collection[str]) -> EnvSpec:
    """Restrict a spec to the given state entries."""
    kept = [i for i, name in enumerate(spec.state_names) if name in read]
    state = spec.observations["state"].model_copy(update={"shape": (len(kept),)})
    changes = {
        "observations": {**spec.observations, "state": state},
        "state_names": tuple(spec.state_names[i] for i in kept),
        "state_scaled": tuple(spec.state_scaled[i] for i in kept) if spec.state_scaled else (),
    }
    return spec.model_copy(update=changes)


def _without_critics(policy: ActorCritic) -> ActorCritic:
    policy = copy.deepcopy(policy).eval().requires_grad_(False)
    part: ActorCritic | None = policy
    while part is not None:
        part.critic = nn.Sequential()
        part = part.base if isinstance(part, ResidualActorCritic) else None
    return policy
