"""Artificial delay of a policy's answers in simulated time, as by a network."""

from __future__ import annotations

import time

from rpd.config.deploy import CascadeConfig
from rpd.deploy.clock import ANSWER_WAIT, PATIENCE, Clock
from rpd.deploy.policy import Answer, PolicyProcess
from rpd.envs.control.arm import Array
from rpd.envs.specs import EnvSpec


class DelayedPolicy(PolicyProcess):
    """Answers reach the loop a fixed simulated time after their observations.

    As in real time, a tick waits for the answer to its own observation for a fraction of its period, and the arm moves on
    meanwhile; an answer that takes longer is used at a later tick.
    """

    def __init__(
        self, name: str, spec: EnvSpec, delay: float, cascade: CascadeConfig | None, clock: Clock, period: float
    ) -> None:
        """Start the process and wait until the policy is loaded.

        Args:
            name: see `PolicyProcess`, as the next ones.
            spec: spec of the robot's observations and actions.
            delay: simulated time from an observation to its answer, s.
            cascade: teacher and ensemble, if any.
            clock: simulated time.
            period: time between ticks, s.
        """
        super().__init__(name, spec, cascade=cascade)
        self._delay, self._clock, self._wait = delay, clock, ANSWER_WAIT * period
        self._due: list[tuple[float, Answer]] = []  # answers that have not reached the loop, with their times
        self._unanswered = False

    def reset(self) -> None:
        """See `PolicyProcess`."""
        super().reset()
        self._due, self._unanswered = [], False

    def ask(self, tick: int, obs: dict[str, Array], instruction: str) -> None:
        """See `PolicyProcess`."""
        super().ask(tick, obs, instruction)
        self._unanswered = True

    def answer(self, until: float | None = None) -> Answer | None:
        """See `PolicyProcess`; the process itself has no delay, so its answer is awaited at once."""
        if self._unanswered and (found := super().answer(time.monotonic() + PATIENCE)) is not None:
            self._due.append((self._clock.now() + self._delay, found))
            self._unanswered = False
        if until is not None and self._due and self._due[-1][0] <= self._clock.now() + self._wait:
            self._clock.sleep_until(self._due[-1][0])
        now = self._clock.now()
        arrived = [found for due, found in self._due if due <= now]
        self._due = [(due, found) for due, found in self._due if due > now]
        return arrived[-1] if arrived else None
