"""Learning curves of one or several runs, from their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rpd.reporting.charts import Series
from rpd.reporting.text import MODES, kind
from rpd.runs.reader import EPISODES, Metrics, _strictly_ascending
from rpd.students.identity import short

NOT_NAMED = {
    *("task", "algorithm", "teacher", "base", "env.robot", "env.reward", "env.obs_mode"),  # parts of the label
    *(f"env.{name}" for name in EPISODES),
    *("seed", "device", "num_threads", "env.num_workers"),
    *("eval_freq", "eval_episodes", "final_eval_episodes", "save_freq", "max_checkpoints", "track"),
}
"""Options that do not distinguish methods by themselves."""


def labels(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Name each run by its ``label``, else by its algorithm and the settings in which the runs differ, except the seed.

    >>> labels([{"algorithm": "rpd", "task": "A"}, {"algorithm": "ppo", "task": "A"}, {"algorithm": "ppo", "task": "B"}])
    ['RPD · A', 'PPO · A', 'PPO · B']
    """
    summaries = [s | {role: _told_apart(s, role, summaries) for role in ("teacher", "base")} for s in summaries]
    named = [
        k for k in ("task", "robot", "reward", "obs_mode", "teacher", "base") if len({s.get(k) for s in summaries} - {None}) > 1
    ]
    options = [k for k in EPISODES if len({s.get(k) for s in summaries}) > 1]
    return [
        s.get("label")
        or " · ".join(
            [
                kind(s),
                *(str(s[k]) for k in named if s.get(k)),
                *(f"{k} {s.get(k, 'default')}" for k in options),
                *_differing_options(s, summaries),
            ]
        )
        for s in summaries
    ]


def _differing_options(summary: dict[str, Any], summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Further options in which a run differs from others of its algorithm, task and robot, e.g. ``ppo.learning_rate 0.001``.

    Runs of another algorithm, task or robot have other defaults, and their labels differ anyway.
    """
    alike = [s for s in summaries if all(s.get(k) == summary.get(k) for k in ("algorithm", "base", "task", "robot"))]
    own, values = summary.get("options") or {}, [s.get("options") or {} for s in alike]
    differing = [k for k in own if k not in NOT_NAMED and len({v[k] for v in values if k in v}) > 1]
    return [f"{k} {own[k]}" for k in differing]


def _told_apart(summary: dict[str, Any], role: str, summaries: Sequence[dict[str, Any]]) -> str | None:
    """Name of a teacher or base, with its digest if several of this name occur."""
    name, own = summary.get(role), (summary.get("sources") or {}).get(role)
    others = {(s.get("sources") or {}).get(role) for s in summaries if s.get(role) == name} - {None}
    return f"{name} ({short(own)})" if name and own and len(others) > 1 else name


def in_order(names: Sequence[str]) -> list[str]:
    """Return the distinct labels, RPD first; the index of a label is its color."""
    modes = list(MODES.values())
    return sorted(set(names), key=lambda n: (next((i for i, m in enumerate(modes) if n.startswith(m)), len(modes)), n))


def column(metrics: Metrics, name: str, by: str = "step") -> tuple[list[float], list[float]]:
    """Return x and y of a metric where it was logged; `by` may have been logged at an earlier step."""
    x: list[float] = []
    y: list[float] = []
    at: float | None = None
    for line in metrics:
        at = line.get(by, at)
        if name in line and at is not None:
            x.append(at)
            y.append(line[name])
    return x, y


def band(label: str, curves: Sequence[tuple[Sequence[float], Sequence[float]]], color: int, points: int = 200) -> Series:
    """Combine the curves of several seeds: their mean, and a band from the lowest to the highest.

    Curves are interpolated linearly over their common steps, and averaged over windows if they have more than `points`.

    Args:
        label: label of the line.
        curves: (x, y) per seed, x ascending, equal x being a vertical line; empty ones are ignored.
        color: index into the palette.
        points: maximum number of points.
    """
    filled = [(_strictly_ascending(np.asarray(x, float)), np.asarray(y, float)) for x, y in curves if len(x)]
    if not filled:
        return Series(label, [], [], index=color)
    grid = np.unique(np.concatenate([x for x, _ in filled]))
    grid = grid[(grid >= max(x[0] for x, _ in filled)) & (grid <= min(x[-1] for x, _ in filled))]
    values = np.stack([np.interp(grid, x, y) for x, y in filled])  # [seeds, X]
    if len(grid) > points:
        windows = np.array_split(np.arange(len(grid)), points)
        values = np.stack([values[:, w].mean(1) for w in windows], axis=1)
        grid = np.array([grid[w].mean() for w in windows])
    low, high = (values.min(0).tolist(), values.max(0).tolist()) if len(filled) > 1 else (None, None)
    return Series(label, grid.tolist(), values.mean(0).tolist(), low, high, color)
