"""Exportable parts of a policy: networks, settings, and self-test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.envs.vector_env import VectorEnv
from rpd.export.examples import random_observations, record_observations, select_confident
from rpd.export.graph import DeterministicPolicy
from rpd.students.actor_critic import ActorCritic

LOGIT_MARGIN = 1e-4


class Part(NamedTuple):
    """A network."""

    module: nn.Module
    inputs: list[str]
    """Names of its arguments."""
    example: list[Tensor]
    """Example arguments, with a batch of at least 2."""


@dataclass(frozen=True)
class Parts:
    """Networks, settings and self-test of an export."""

    spec: EnvSpec
    """Spec with only the state entries that are read."""
    networks: dict[str, Part]
    asked: dict[str, np.ndarray]
    """Self-test: observations [COUNT, ...] by key, in the order of the first network's arguments."""
    answers: np.ndarray
    """Self-test: actions of the trained policy."""
    origin: str
    """Origin of the observations."""
    noise: np.ndarray | None = None
    """Self-test: initial noise of the chunks."""
    chunks: dict[str, Any] | None = None
    """Settings of `actors.Denoising`."""


def student_parts(policy: ActorCritic, spec: EnvSpec, env: VectorEnv | ConfigError) -> Parts:
    """Split a single-pass student into exportable parts.

    Args:
        policy: policy adapted to `spec`.
        spec: spec of the environment.
        env: environment in which observations are recorded, or the reason why it cannot be built.

    Raises:
        ConfigError: a residual policy on a teacher, which is not part of it.
    """
    network = DeterministicPolicy(policy, spec)
    if isinstance(env, ConfigError):
        obs, origin = random_observations(spec, policy.columns, policy.state_normalizer), f"drawn at random ({env})"
    else:
        obs, origin = record_observations(lambda seen, _: policy.act(seen), env), f"recorded in {spec.task}"
    with torch.no_grad():
        answer = policy.distribution(obs)
    margin = answer.raw.abs().where(answer.discrete, torch.inf).amin(-1)
    chosen = select_confident(margin, LOGIT_MARGIN)
    obs = {key: rows[chosen] for key, rows in obs.items()}
    example = inputs(network.keys, obs, network.spec, spec)
    asked = {key: rows.numpy() for key, rows in zip(network.keys, example, strict=True)}
    return Parts(network.spec, {"policy": Part(network, network.keys, example)}, asked, policy.act(obs).numpy(), origin)


def inputs(keys: list[str], obs: dict[str, Tensor], spec: EnvSpec, whole: EnvSpec) -> list[Tensor]:
    """Inputs of a network from observations of the `whole` environment: only the state entries of `spec`."""
    index = [whole.state_names.index(name) for name in spec.state_names]
    return [obs[key][:, index] if key == "state" else obs[key] for key in keys]
