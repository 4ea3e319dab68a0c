"""Registries of divergences by name, importable without torch; `rpd.algorithms.distillation` adds the functions."""

from __future__ import annotations

from typing import Any

from rpd.envs.errors import unknown_name

DIVERGENCES: dict[str, list[Any]] = {
    name: []
    for name in (
        "mse", "l1", "huber", "nearest", "direction", "nll", "fkl", "rkl", "neighborhood", "jsd", "skew-fkl", "skew-rkl", "tv",
        "chi2", "rank", "gap", "opd", "adpo", "trrd",
    )
}  # fmt: skip
"""Variants of each divergence, see `rpd.algorithms.distillation.divergences`. Entries of a user's own are valid options."""


def check_divergence(name: str) -> str:
    """Return the name of a registered divergence.

    Raises:
        ConfigError: unknown divergence; names the nearest.
    """
    if name not in (names := divergence_names()):
        raise unknown_name("divergence", name, names)
    return name


def divergence_names() -> list[str]:
    """Names of all registered divergences, a user's own included."""
    return list(DIVERGENCES)


def divergence_hint(default: str) -> str:
    """Hint for the help of an option: the registered names and the default."""
    return f"(one of: {', '.join(divergence_names())}; default: {default})"
