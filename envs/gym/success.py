"""Success of a Gymnasium task: an entry of ``info``, or the return of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpd.envs.errors import ConfigError

KEYS = ("success", "is_success")
"""Entries of ``info`` that are looked for, in this order."""
_RETURN = "return>="


@dataclass(frozen=True)
class Success:
    """Rule for the success of an episode; neither field: no episode is solved.

    Attributes:
        key: entry of ``info``, with dots if nested. True, or a number above 0.5: solved at this step.
        threshold: undiscounted return at the end of an episode from which on it is solved.
    """

    key: str | None = None
    threshold: float | None = None

    @property
    def defined(self) -> bool:
        """Whether an episode can be solved."""
        return self.key is not None or self.threshold is not None


def rule(task: str, option: str | None, seen: Sequence[Mapping[str, Any]], reward_threshold: float | None) -> Success:
    """Choose the rule.

    Args:
        task: for messages.
        option: the option env.success.
        seen: infos of some steps.
        reward_threshold: of the registration.

    Raises:
        ConfigError: the infos have no such key; names those that they have.
    """
    if option is not None and option.replace(" ", "").startswith(_RETURN):
        number = option.replace(" ", "").removeprefix(_RETURN)
        try:
            return Success(threshold=float(number))
        except ValueError:
            raise ConfigError(f"env.success {option}: '{number}' is not a number; write {_RETURN}NUMBER") from None
    for key in KEYS if option is None else (option,):
        if any(_lookup(info, key) is not None for info in seen):
            return Success(key=key)
    if option is not None:
        keys = sorted({str(key) for info in seen for key in info if not str(key).startswith("_")})
        raise ConfigError(
            f"{task}: info has no '{option}', only {', '.join(keys) or 'nothing'}: set env.success to one of them, or to "
            f"{_RETURN}NUMBER"
        )
    return Success(threshold=reward_threshold)


def missing(option: str | None, seen: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the option env.success names a key that none of the infos has."""
    is_key = option is not None and not option.replace(" ", "").startswith(_RETURN)
    return is_key and all(_lookup(info, str(option)) is None for info in seen)


def undefined(task: str) -> str:
    """Remark about a task without success."""
    return (
        f"{task} defines no success: evaluations report the return, and success 0 %. To define it: --env.success KEY of info, "
        f"or --env.success '{_RETURN}NUMBER'"
    )


def in_info(info: Mapping[str, Any], key: str) -> bool:
    """Whether the entry of one environment's ``info`` is there and true."""
    value = _lookup(info, key)
    return value is not None and bool(np.any(np.asarray(value, dtype=float) > 0.5))


def in_infos(infos: Mapping[str, Any], key: str, num_envs: int) -> np.ndarray:
    """The same for the ``infos`` of a vector environment, arrays [N]: bool [N]."""
    value = _lookup(infos, key)
    if value is None:
        return np.zeros(num_envs, bool)
    rows = [0.0 if row is None else row for row in np.asarray(value)]
    return np.asarray(rows, dtype=float).reshape(num_envs, -1).max(axis=1) > 0.5


def _lookup(info: Mapping[str, Any], key: str) -> Any:
    if key in info:
        return info[key]
    value: Any = info
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
