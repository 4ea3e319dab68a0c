"""Range of the state entries that a policy was trained on, from the statistics of its normalizer."""

from __future__ import annotations

from typing import TypedDict

import torch

from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.generalist import GeneralistActorCritic
from rpd.students.networks.normalizer import MIN_STD


class TrainingRange(TypedDict):
    """Mean and standard deviation of state entries over a training."""

    names: list[str]
    mean: list[float]
    std: list[float]
    """As the normalizer divides by it: not below `MIN_STD`."""


def training_range(policy: ActorCritic | DiffusionPolicy, spec: EnvSpec) -> TrainingRange | None:
    """Range of the entries that a policy whitens; None if it whitens none.

    Args:
        policy: policy adapted to `spec`.
        spec: spec of the environment.
    """
    seen = policy.state_normalizer
    if seen is None or not seen.count:
        return None
    used = ~seen.scaled
    if isinstance(policy, GeneralistActorCritic):
        used = used & policy.present
    index = torch.nonzero(used).flatten()
    std = seen.var.sqrt().clamp(min=MIN_STD)
    return {
        "names": [spec.state_names[column] for column in policy.columns[index].tolist()],
        "mean": seen.mean[index].tolist(),
        "std": std[index].tolist(),
    }
