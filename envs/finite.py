"""Checks of numbers at module boundaries: finite, and of a plausible magnitude."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import NonFiniteError
from rpd.envs.specs import EnvSpec

LIMIT = 1e6
"""Largest valid magnitude of an observation or an action. Positions, speeds and forces in SI units are orders of magnitude
smaller; the normalizer of a policy would clip larger values to a plausible number."""
SHOWN = 8
"""Number of rows and entries listed in a message."""


def is_valid(values: Tensor, limit: float = LIMIT) -> Tensor:
    """Whether each number is finite and at most `limit` in magnitude: bool, same shape."""
    return values.abs() <= limit  # False for NaN


def nan_where_invalid(values: Tensor) -> Tensor:
    """`values` with invalid entries (see `is_valid`) replaced by NaN, so that no later step hides them."""
    return torch.where(is_valid(values), values, torch.nan)


def clipped(action: Tensor) -> Tensor:
    """Actions clipped to [-1, 1], with NaN for invalid entries: a plain clip would turn Inf into +1."""
    return nan_where_invalid(action).clamp(-1, 1)


def nan_unless_distribution(values: Tensor, logits: Tensor) -> Tensor:
    """`values` [...], with NaN where the `logits` [..., B] that they were selected from are not a distribution.

    An argmax hides NaN. Single logits may be -Inf (probability 0).
    """
    return torch.where(logits.amax(-1).isfinite(), values, torch.nan)


def any_invalid(tensors: Mapping[str, Tensor]) -> Tensor:
    """Whether any float tensor of `tensors` has an invalid number: a bool on their device, without synchronization."""
    flags = [~is_valid(value).all() for value in tensors.values() if value.is_floating_point()]
    return torch.stack(flags).any() if flags else torch.zeros((), dtype=torch.bool)


def check(
    tensors: Mapping[str, Tensor], source: str, names: Mapping[str, Sequence[str]] | None = None, rows: str = "environment"
) -> None:
    """Raise if a float tensor [N, ...] has an invalid number. Synchronizes with the device once.

    Args:
        tensors: by the name used in messages.
        source: origin of the numbers, for the message.
        names: names of the entries of a tensor [N, D], by key.
        rows: name of a row.

    Raises:
        NonFiniteError: names the source, the first invalid tensor, its rows and entries; its evidence is `tensors`.
    """
    if not any_invalid(tensors):
        return
    key = next(key for key, value in tensors.items() if value.is_floating_point() and not is_valid(value).all())
    value = tensors[key].reshape(len(tensors[key]), -1)
    mask = ~is_valid(value)
    where = f"{key} of {rows} {listed(mask.any(1).nonzero()[:, 0].tolist())}"
    raise NonFiniteError(source, f"{where}: {entries(value, mask, (names or {}).get(key, ()))}", tensors)


def check_exchange(
    obs: TensorDict, answer: Mapping[str, Tensor], source: str, spec: EnvSpec, added: Mapping[str, str] | None = None
) -> None:
    """Raise if an observation [N] or the answer to it has an invalid number.

    Checks both with one device synchronization; an invalid observation is not attributed to the answering policy.

    Args:
        obs: the observation.
        answer: tensors [N, A] by name, one entry per action dimension.
        source: origin of the answer, for the message.
        spec: spec of the environment.
        added: observation keys that the environment does not compute, each with its source (`VectorEnv.added_keys`).

    Raises:
        NonFiniteError: names the environment or the source; its evidence is the observation and the answer.
    """
    shown = cast("dict[str, Tensor]", dict(obs.items()))
    if not any_invalid({**shown, **answer}):
        return
    try:
        added = added or {}
        check({key: value for key, value in shown.items() if key not in added}, "environment", {"state": spec.state_names})
        for key, component in added.items():
            check({key: shown[key]}, component)
        check(answer, source, dict.fromkeys(answer, spec.action.names))
    except NonFiniteError as fault:
        fault.evidence = {**shown, **answer}
        raise


def entries(value: Tensor, mask: Tensor, names: Sequence[str]) -> str:
    """List the entries of `value` [N, D] marked by `mask` [N, D], each with its first marked number."""
    columns = mask.any(0).nonzero()[:, 0].tolist()
    named = [names[i] if len(names) == mask.shape[1] else f"[{i}]" for i in columns]
    numbers = [value[:, i][mask[:, i]][0].item() for i in columns[:SHOWN]]
    return listed([f"{name} = {number:g}" for name, number in zip(named, numbers, strict=False)], len(named))


def listed(items: Iterable[object], count: int | None = None) -> str:
    """Join the first `SHOWN` items for a message; `count`: the total number, if `items` is incomplete."""
    items = list(items)
    more = (len(items) if count is None else count) > SHOWN
    return ", ".join(map(str, items[:SHOWN])) + ("…" if more else "")
