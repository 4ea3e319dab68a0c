"""A student as a function of plain tensors, which is what exporters take."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students.actor_critic import ActorCritic
from students.generalist import GeneralistActorCritic
from students.residual import ResidualActorCritic


class Widen(nn.Module):
    """From the entries of the state that a policy reads to the whole state, for which it was made."""

    place: Tensor

    def __init__(self, spec: EnvSpec, whole: EnvSpec) -> None:
        super().__init__()
        # Where each entry of the whole state is found: those that nobody reads, in a zero behind the others.
        places = {name: i for i, name in enumerate(spec.state_names)}
        index = [places.get(name, len(places)) for name in whole.state_names]
        self.register_buffer("place", torch.tensor(index), persistent=False)
        self._same = len(places) == len(index)

    def forward(self, state: Tensor) -> Tensor:
        """[N, S'] -> [N, S]."""
        return state if self._same else torch.cat([state, torch.zeros_like(state[:, :1])], dim=-1)[:, self.place]


class Acting(nn.Module):
    """The deterministic action [N, A] of a policy, normaliser, base and all, from one tensor [N, ...] per observation.

    Attributes:
        keys: of the observations, in the order of the arguments.
        spec: of the environment, with those entries of the state alone that it reads: a robot need not tell the others.
    """

    def __init__(self, policy: ActorCritic, whole: EnvSpec) -> None:
        """Copy a policy, without its critics.

        Args:
            policy: any student.
            whole: the environment that it was made to `fit`.

        Raises:
            ConfigError: it corrects a teacher, which is no part of it.
        """
        super().__init__()
        self.policy = _without_critics(policy)
        self.spec, self.keys = narrowed(whole, _entries(policy, whole)), ["state", *whole.cameras]
        self.widen = Widen(self.spec, whole)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the action [N, A] in [-1, 1]; arguments in the order of `keys`."""
        obs = dict(zip(self.keys, inputs, strict=True))
        obs["state"] = self.widen(obs["state"])
        return self.policy.distribution(obs).mode().clamp(-1, 1)


def _entries(policy: ActorCritic, spec: EnvSpec) -> set[str]:
    """The entries of the state that a policy or its base reads."""
    columns = policy.columns[policy.present] if isinstance(policy, GeneralistActorCritic) else policy.columns
    read = {spec.state_names[column] for column in columns.tolist()}
    if isinstance(policy, ResidualActorCritic):
        if policy.base is None:
            raise ConfigError(
                f"the policy corrects teacher {policy.outside}, which is not part of it: let `rpd serve` answer with both"
            )
        read |= _entries(policy.base, spec)
    return read


def narrowed(spec: EnvSpec, read: Collection[str]) -> EnvSpec:
    """The same with a state of these entries alone, as far as it has them."""
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
