"""Map observations and actions of a trained policy to another environment that it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rpd.envs.specs import EnvSpec


class SpecAdapter(NamedTuple):
    """Column and scale mapping between a policy and an environment; see `EnvSpec.check_policy`."""

    columns: list[int]
    """Positions, in the environment's state, of the state entries that the policy reads."""
    rescale: list[float]
    """[A] factors for the policy's actions that preserve their size in physical units."""


def adapt_spec(policy: EnvSpec, env: EnvSpec, reads: Sequence[str]) -> SpecAdapter:
    """Map a policy to an environment.

    Args:
        policy: the spec saved with the policy.
        env: the spec of the environment.
        reads: groups of state entries that the policy reads, see `EnvSpec.entries`.

    Raises:
        SpecMismatch: the policy does not fit; names both sides.
    """
    env.check_policy(policy, reads)
    columns = [env.state_names.index(name) for name in policy.entries(reads)]
    sides = zip(policy.action.scale, env.action.scale, policy.action.discrete, strict=True)
    return SpecAdapter(columns, [1.0 if discrete else a / b for a, b, discrete in sides])
