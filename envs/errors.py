"""Errors by kind: invalid input, found before a run, and faults that stop a run with evidence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class ConfigError(Exception):
    """Invalid input. The message is one line: what, where, and what would be right. The CLI exits with code 2."""


class SpecMismatch(ConfigError):
    """Specs of a policy, teacher or environment that do not fit; the message states both sides."""


class RunFault(Exception):
    """The run cannot continue (non-finite numbers, a dead worker, a full disk). The CLI exits with code 1."""


class NonFiniteError(RunFault):
    """NaN, Inf, or an implausible magnitude, from an environment, a teacher, a policy or a loss.

    Attributes:
        source: origin of the values, e.g. ``"environment"``.
        evidence: tensors at the boundary where the values were found, by name.
    """

    def __init__(self, source: str, what: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"non-finite values from the {source}: {what}")
        self.source, self.evidence = source, dict(evidence or {})


class WorkerDied(RunFault):
    """An environment worker process exited unexpectedly; the message names it."""


class ServerLost(RunFault):
    """A policy server stopped answering or answered with an error; the message names it."""


def install_extra(extra: str) -> str:
    """Return the command that installs an extra; from a clone, because `rpd` on PyPI is a different project."""
    return f"pip install -e '.[{extra}]' # in a clone of rpd"


def missing_package(user: str, package: str, extra: str) -> ConfigError:
    """Build the error for an optional package that is not installed.

    Args:
        user: feature that needs the package, e.g. ``"driver ur"``.
        package: name of the package, e.g. ``"ur-rtde"``.
        extra: extra of this project that installs it.
    """
    return ConfigError(f"{user} needs {package}, which is not installed: {install_extra(extra)}")


def unknown_name(kind: str, name: str, valid: Iterable[str], renamed: Mapping[str, str] | None = None) -> ConfigError:
    """Build the error for a name that does not exist, with the nearest valid names.

    Args:
        kind: kind of name, e.g. ``"task"``.
        name: the given name.
        valid: all valid names.
        renamed: present names by former ones; used where the present name is valid.
    """
    choices = sorted(valid)
    if renamed is not None and renamed.get(name) in choices:
        return ConfigError(f"unknown {kind} '{name}': it is {renamed[name]} now")
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
    if not near:  # a missing prefix ("PickCube" for "tabletop/PickCube")
        near = [c for c in choices if name.lower() in c.lower()][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(choices)}"
    return ConfigError(f"unknown {kind} '{name}': {hint}")
