"""Errors by kind: what the user must change before a run, and what stops a run with evidence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """Bad input. The message is one line: what, where, and what would be right. The CLI exits with 2."""


class SpecMismatch(ConfigError):
    """A policy, teacher or environment whose specs do not fit each other; the message names both sides."""


class RunFault(Exception):
    """The run cannot go on (non-finite numbers, a dead worker, a full disk). The CLI exits with 1."""


class NonFiniteError(RunFault):
    """NaN or Inf from an environment, a teacher or a loss.

    Attributes:
        source: where it came from, e.g. ``"environment"``.
    """

    def __init__(self, source: str, what: str) -> None:
        super().__init__(f"non-finite values from the {source}: {what}")
        self.source = source


class WorkerDied(RunFault):
    """An environment worker process ended unexpectedly; the message names it."""


class ServerLost(RunFault):
    """A policy server does not answer any more, or answers with an error; the message names it."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> ConfigError:
    """Build the error for a name that does not exist, with the nearest names that do.

    Args:
        kind: what is being named, e.g. ``"task"``.
        name: the name that was given.
        valid: every name that would be accepted.
    """
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
    if not near:  # a forgotten prefix ("PickCube") still deserves a good suggestion
        near = [c for c in choices if name.lower() in c.lower()][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(choices)}"
    return ConfigError(f"unknown {kind} '{name}': {hint}")
