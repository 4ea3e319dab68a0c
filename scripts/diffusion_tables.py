"""The table of what `rpd bench diffusion` measured on several tasks, from results/diffusion/<task>/bench.json."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markdown_table import table

from rpd.reporting.text import paired_text


def samplers(benches: list[dict[str, Any]]) -> str:
    """A row per sampler: success and difference on each task, and the cost, from the least to the most."""
    tasks = [bench["task"].rsplit("/", 1)[-1] for bench in benches]
    by_sampler: dict[str, list[dict[str, Any] | None]] = {}
    for i, bench in enumerate(benches):
        for method in bench["methods"]:
            by_sampler.setdefault(method["sampler"], [None] * len(benches))[i] = method
    rows = []
    for sampler, methods in by_sampler.items():
        done = [m for m in methods if m is not None]
        cost = (_span(m["evaluations_per_action"] for m in done), _span(m["cpu_ms_per_action"] for m in done))
        rows.append([f"`{sampler}`", *map(_success, methods), *cost])
    return table(["sampler", *tasks, "evaluations / action", "CPU ms / action"], rows)


def _success(method: dict[str, Any] | None) -> str:
    if method is None:
        return "–"
    solved, paired = f"{method['successes']}/{method['n']}", method["paired"]
    return solved if paired is None else f"{solved}: {100 * paired['diff']:+.1f} {paired_text(paired)}"


def _span(values: Iterable[float]) -> str:
    """The least and the most, or one number where they are written the same."""
    found = sorted(values)
    low, high = (f"{v:.1f}" if v < 10 else f"{v:.0f}" for v in (found[0], found[-1]))
    return low if low == high else f"{low}–{high}"
