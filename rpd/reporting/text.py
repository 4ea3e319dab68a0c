"""Numbers as text, for reports and terminals."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

MODES = {"rpd": "RPD", "ppo": "PPO", "dagger": "DAgger", "bc": "Cloned"}


def rate_text(result: dict[str, Any]) -> str:
    """Return k/n and the 95 % interval."""
    low, high = result["interval"]
    return f"{result['successes']}/{result['n']} ({100 * low:.0f}–{100 * high:.0f} %)"


def paired_text(paired: dict[str, Any]) -> str:
    """Return the 95 % interval of a paired difference, in points."""
    return f"({100 * paired['lo']:+.0f} to {100 * paired['hi']:+.0f})"


def count(value: float | None) -> str:
    """Format an integer with separators."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Format seconds as h:mm:ss."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def kind(summary: dict[str, Any]) -> str:
    """Name a kind of run: its algorithm, and whether it corrects a base."""
    return MODES.get(summary.get("algorithm") or "", "run") + (" residual" if summary.get("base") else "")
