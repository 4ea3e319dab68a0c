"""What of a policy is exported: its networks, what is around them, and what they are tested with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from envs.base import VectorEnv
from envs.errors import ConfigError
from envs.specs import EnvSpec
from rpd.export.examples import decided, drawn, recorded
from rpd.export.graph import Acting
from students.actor_critic import ActorCritic

LOGIT_MARGIN = 1e-4


class Part(NamedTuple):
    """A network."""

    module: nn.Module
    inputs: list[str]
    """Names of its arguments."""
    example: list[Tensor]
    """Arguments, with a batch of at least 2."""


@dataclass(frozen=True)
class Parts:
    """See the module."""

    spec: EnvSpec
    """What a robot has to show, its state with those entries alone that are read."""
    networks: dict[str, Part]
    asked: dict[str, np.ndarray]
    """The self-test: observations [COUNT, ...] by key, in the order of the first network's arguments..."""
    answers: np.ndarray
    """... and what the trained policy does."""
    origin: str
    """Where the observations come from."""
    noise: np.ndarray | None = None
    """From which its chunks are drawn."""
    chunks: dict[str, Any] | None = None
    """See `actors.Denoising`."""


def of_student(policy: ActorCritic, spec: EnvSpec, env: VectorEnv | ConfigError) -> Parts:
    """Take a student apart that answers in one pass.

    Args:
        policy: that was made to fit...
        spec: ... this environment.
        env: to record observations in, or why there is none.

    Raises:
        ConfigError: it corrects a teacher, which is no part of it.
    """
    network = Acting(policy, spec)
    if isinstance(env, ConfigError):
        obs, origin = drawn(spec, policy.columns, policy.state_normalizer), f"drawn at random ({env})"
    else:
        obs, origin = recorded(lambda seen, _: policy.act(seen), env), f"recorded in {spec.task}"
    with torch.no_grad():
        answer = policy.distribution(obs)
    margin = answer.raw.abs().where(answer.discrete, torch.inf).amin(-1)
    chosen = decided(margin, LOGIT_MARGIN)
    obs = {key: rows[chosen] for key, rows in obs.items()}
    example = inputs(network.keys, obs, network.spec, spec)
    asked = {key: rows.numpy() for key, rows in zip(network.keys, example, strict=True)}
    return Parts(network.spec, {"policy": Part(network, network.keys, example)}, asked, policy.act(obs).numpy(), origin)


def inputs(keys: list[str], obs: dict[str, Tensor], spec: EnvSpec, whole: EnvSpec) -> list[Tensor]:
    """Observations of the `whole` environment as a network takes them: with the entries alone that the state of `spec` has."""
    index = [whole.state_names.index(name) for name in spec.state_names]
    return [obs[key][:, index] if key == "state" else obs[key] for key in keys]
