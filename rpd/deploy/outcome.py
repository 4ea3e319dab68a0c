"""Result of a deployed episode, and the exception that ends it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


class Stop(Exception):
    """The robot must stop; the message states the reason."""


@dataclass
class Outcome:
    """Result and statistics of one episode."""

    reason: str
    """Reason of its end."""
    fault: bool
    """Whether it ended by a fault, which also ends the deployment."""
    success: bool | None
    """Whether the task was solved; None if unknown."""
    stopped_at: float = 0.0
    """`time.monotonic` after the stop command."""
    stop_failure: str | None = None
    """Reason why the robot did not take the stop command; None: it did."""
    ticks: int = 0
    """Control ticks."""
    asked: int = 0
    """Observations sent to the policy."""
    answered: int = 0
    """Actions received from the policy in time."""
    lateness: list[float] = field(default_factory=list)
    """Delay of each tick after its deadline, s."""
    ages: list[float] = field(default_factory=list)
    """Age of each robot state when it was used, s."""
    delays: list[float] = field(default_factory=list)
    """Time from the measurement of an observation to the command of its action, s."""
    overruns: int = 0
    """Missed deadlines."""
    who: Counter[str] = field(default_factory=Counter)
    """Number of actions by source, see `rpd.deploy.cascade`."""
    takeovers: Counter[str] = field(default_factory=Counter)
    """Number of take-overs by an operator, by reason."""
    clamps: Counter[str] = field(default_factory=Counter)
    """Number of commands changed by each limit."""
    outside: dict[str, float] = field(default_factory=dict)
    """State entries of the first observation that lie outside of the training, see `rpd.export.actors.outside_training`."""
