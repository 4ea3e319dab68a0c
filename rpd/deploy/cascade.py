"""Cascade: a cheap policy acts, and an expensive teacher is queried where the policy is unsure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rpd.config.deploy import CascadeConfig
from rpd.envs.errors import ConfigError

Obs = dict[str, np.ndarray]
Act = Callable[[Obs, str], np.ndarray]
"""Maps an observation without batch dimension and an instruction to an action [A]."""
STUDENT, TEACHER, UNSURE = "student", "teacher", "unsure"


@dataclass(frozen=True)
class Decision:
    """An action and its source."""

    action: np.ndarray
    """[A]."""
    who: str = STUDENT
    """Source of the action: `STUDENT`, `TEACHER`, or `UNSURE` if the robot has to stop."""
    spread: float | None = None
    """Disagreement of the answers, if compared."""
    value: float | None = None
    """Value of the observation, if estimated."""


class Cascade:
    """Selects the source of each action.

    Args:
        config: thresholds.
        act: the policy.
        others: other members of the ensemble.
        value: value function of the policy, if any.
        teacher: teacher to query; None: the robot stops.
        discrete: [A] dimensions of which only the sign matters.

    Raises:
        ConfigError: a threshold on the value, and a policy without one.
    """

    def __init__(
        self,
        config: CascadeConfig,
        act: Act,
        others: Sequence[Act],
        value: Callable[[Obs], float] | None,
        teacher: Act | None,
        discrete: Sequence[bool],
    ) -> None:
        if config.value_below is not None and value is None:
            raise ConfigError(
                "--cascade.value-below: the policy has no value function; use a run, a checkpoint or a policy folder"
            )
        self._config, self._act, self._others = config, act, list(others)
        self._value, self._teacher, self._discrete = value, teacher, np.array(discrete)

    def __call__(self, obs: Obs, instruction: str) -> Decision:
        """Select the action for an observation."""
        config = self._config
        action = self._act(obs, instruction)
        if config.ask is None:
            return Decision(action)
        answers = [action, *(self._act(obs, instruction) for _ in range(config.draws - 1))]
        answers += [other(obs, instruction) for other in self._others]
        spread = self._spread(np.stack(answers)) if len(answers) > 1 else None
        value = self._value(obs) if config.value_below is not None and self._value is not None else None
        unsure = config.spread is not None and spread is not None and not spread <= config.spread  # also NaN
        if config.value_below is not None and value is not None:
            unsure |= not value >= config.value_below
        if not unsure:
            return Decision(action, STUDENT, spread, value)
        if self._teacher is None:
            return Decision(action, UNSURE, spread, value)
        return Decision(self._teacher(obs, instruction), TEACHER, spread, value)

    def _spread(self, answers: np.ndarray) -> float:
        """Largest standard deviation over dimensions, of answers [K, A]."""
        return float(np.where(self._discrete, np.sign(answers), np.clip(answers, -1, 1)).std(axis=0).max())
