"""How a policy that was trained in one environment reads and acts in another on which it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from envs.specs import EnvSpec


class Fit(NamedTuple):
    """See `EnvSpec.check_policy`."""

    columns: list[int]
    """Where the state entries that the policy reads are in the environment's state."""
    rescale: list[float]
    """[A] what the policy's actions are multiplied with, so that they mean here, in physical units, what they meant there."""


def fit(policy: EnvSpec, env: EnvSpec, reads: Sequence[str]) -> Fit:
    """Fit a policy to an environment.

    Args:
        policy: the spec saved with the policy.
        env: of the environment.
        reads: groups of state entries that the policy reads, see `EnvSpec.entries`.

    Raises:
        SpecMismatch: the policy does not fit; names both sides.
    """
    env.check_policy(policy, reads)
    columns = [env.state_names.index(name) for name in policy.entries(reads)]
    sides = zip(policy.action.scale, env.action.scale, policy.action.discrete, strict=True)
    return Fit(columns, [1.0 if discrete else a / b for a, b, discrete in sides])
