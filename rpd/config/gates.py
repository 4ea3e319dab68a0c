"""Registry of gates by name, importable without torch; `rpd.algorithms.distillation` adds the functions."""

from __future__ import annotations

from typing import Any

from rpd.envs.errors import ConfigError, unknown_name

NONE = "none"
GATES: dict[str, list[Any]] = {
    name: []
    for name in (
        "success-surpassed", "entropy", "relative-entropy", "confidence", "calibrated-confidence", "failed-episodes",
        "solved-episodes", "scope", "in-distribution", "agreement", "teacher-advantage", "trust-region",
    )
}  # fmt: skip
"""Variants of each gate, see `rpd.algorithms.distillation.gates`. Entries of a user's own are valid options."""


def gate_list(gate: str) -> list[str]:
    """Names in a product of gates, ``a,b``; empty for ``none``."""
    return [] if gate == NONE else gate.split(",")


def check_gate(gate: str) -> str:
    """Return a product of registered gates, e.g. ``entropy,failed-episodes``.

    Raises:
        ConfigError: an unknown gate, of which it names the nearest, or one that is named twice.
    """
    names = gate_list(gate)
    for name in names:
        if name not in GATES:
            raise unknown_name("gate", name, [NONE, *GATES])
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"gate {gate} names {twice[0]} twice: name each gate once")
    return gate


def gate_hint(default: str) -> str:
    """Hint for the help of an option: the registered names and the default."""
    return f"(one of, or several joined by commas: {', '.join([NONE, *GATES])}; default: {default})"
