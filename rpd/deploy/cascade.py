"""A cheap policy that acts, and a costly one that is asked where the cheap one seems not to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from envs.errors import ConfigError

Obs = dict[str, np.ndarray]
Act = Callable[[Obs, str], np.ndarray]
"""From an observation without a batch, and an instruction, to an action [A]."""
STUDENT, TEACHER, NOBODY = "student", "teacher", "nobody"
STOP = "stop"
"""What to write in place of a teacher: where the policy does not know, the robot stops."""


class CascadeConfig(BaseModel):
    """When to ask whom."""

    model_config = ConfigDict(extra="forbid")

    ask: str | None = None
    """Whom to ask where the policy seems not to know: teacher:NAME, remote:ws://HOST:PORT, or stop."""
    spread: float | None = Field(None, gt=0)
    """Ask where answers differ: where their standard deviation exceeds this in any dimension of an action, of -1 to 1."""
    ensemble: tuple[str, ...] = ()
    """Policies whose answers are compared with the policy's."""
    draws: int = Field(1, ge=1)
    """Answers of the policy that are compared with each other, of one that draws them."""
    value_below: float | None = None
    """Ask where the policy's own value of the observation is lower."""

    def check(self) -> None:
        """Refuse what does nothing.

        Raises:
            ConfigError: what is missing.
        """
        compared = self.draws > 1 or bool(self.ensemble)
        if self.ask is not None and self.spread is None and self.value_below is None:
            raise ConfigError(f"--cascade.ask {self.ask}: when? add --cascade.spread or --cascade.value-below")
        if self.ask is None and (compared or self.spread is not None or self.value_below is not None):
            raise ConfigError("the cascade asks nobody: add --cascade.ask teacher:NAME, or --cascade.ask stop")
        if (self.spread is not None) != compared:
            raise ConfigError("--cascade.spread compares answers: it goes with --cascade.ensemble or --cascade.draws")


@dataclass(frozen=True)
class Decision:
    """An action, and how it came about."""

    action: np.ndarray
    """[A]."""
    who: str = STUDENT
    """Whose it is: the student's, the teacher's, or nobody's where the robot shall stop."""
    spread: float | None = None
    """How far answers differ, where they were compared."""
    value: float | None = None
    """Of the observation, where it was looked at."""


class Cascade:
    """Decides observation by observation.

    Args:
        config: when to ask.
        act: of the policy.
        others: of the ensemble.
        value: of the policy, where it has one.
        teacher: whom to ask; None: the robot stops.
        discrete: [A] the dimensions of which only the sign counts.

    Raises:
        ConfigError: a policy without a value whose value matters.
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
            raise ConfigError("--cascade.value-below: the policy has no value; a run, a checkpoint or a policy folder has")
        self._config, self._act, self._others = config, act, list(others)
        self._value, self._teacher, self._discrete = value, teacher, np.array(discrete)

    def __call__(self, obs: Obs, instruction: str) -> Decision:
        """Answer an observation."""
        config = self._config
        action = self._act(obs, instruction)
        if config.ask is None:
            return Decision(action)
        answers = [action, *(self._act(obs, instruction) for _ in range(config.draws - 1))]
        answers += [other(obs, instruction) for other in self._others]
        spread = self._spread(np.stack(answers)) if len(answers) > 1 else None
        value = self._value(obs) if config.value_below is not None and self._value is not None else None
        unsure = config.spread is not None and spread is not None and not spread <= config.spread  # NaN, too
        if config.value_below is not None and value is not None:
            unsure |= not value >= config.value_below
        if not unsure:
            return Decision(action, STUDENT, spread, value)
        if self._teacher is None:
            return Decision(action, NOBODY, spread, value)
        return Decision(self._teacher(obs, instruction), TEACHER, spread, value)

    def _spread(self, answers: np.ndarray) -> float:
        """Standard deviation [K, A] -> of the dimension in which answers differ most."""
        return float(np.where(self._discrete, np.sign(answers), np.clip(answers, -1, 1)).std(axis=0).max())
