"""Finished and unfinished runs, read back from their folders: what reports and figures are made from."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from envs.errors import ConfigError
from rpd.charts import Series
from rpd.track import read_metrics

MODES = {"rpd": "RPD", "ppo": "PPO", "dagger": "DAgger", "bc": "Cloned"}
Metrics = list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """A run folder. What a run has not written (yet) is empty."""

    path: Path
    config: str
    """config.yaml as it stands."""
    summary: dict[str, Any]
    """result.json over what the configuration says: task, mode, teacher, seed, reward, obs, steps..."""
    metrics: Metrics
    info: dict[str, Any]
    """env.json."""


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        ConfigError: it is no run, or one of its files is damaged.
    """
    path = Path(path)
    if not (path / "config.yaml").exists() and not (path / "metrics.jsonl").exists():
        raise ConfigError(f"{path} is not a run: it has neither config.yaml nor metrics.jsonl")
    text = (path / "config.yaml").read_text() if (path / "config.yaml").exists() else ""
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path / 'config.yaml'}: not YAML ({' '.join(str(error).split())})") from None
    metrics = read_metrics(path)
    summary = {key: config.get(key) for key in ("task", "mode", "teacher", "base", "init", "seed")}
    summary |= {key: config.get("env", {}).get(key) for key in ("reward", "obs", "robot")}
    summary["steps"] = max((m["step"] for m in metrics), default=0)
    summary["wall_s"] = last(metrics, "time/wall")
    summary["teacher_queries"] = last(metrics, "teacher/queries")
    return Run(path, text, summary | read_json(path / "result.json"), metrics, read_json(path / "env.json"))


def run_of(path: Path) -> Path | None:
    """Return the run folder that a path lies in (a run, a checkpoint, a policy in it), if any."""
    path = Path(path)
    inside = (path, *path.parents[:3])
    return next((p for p in inside if (p / "config.yaml").is_file() and (p / "checkpoints").is_dir()), None)


def distilled(run: Path) -> bool:
    """Whether a run folder is of `rpd distill`: one policy of several specialists."""
    file = run / "config.yaml"
    return file.is_file() and "runs" in (yaml.safe_load(file.read_text()) or {})


def near(path: Path) -> list[str]:
    """Return runs beside a path that does not exist, of a similar name: what may have been meant."""
    path = Path(path)
    return difflib.get_close_matches(str(path), [str(p.parent) for p in path.parent.glob("*/config.yaml")])


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file does not exist.

    Raises:
        ConfigError: the file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value


def last(metrics: Metrics, name: str) -> float | None:
    """Return the newest value of a metric, None where it was never logged."""
    return next((m[name] for m in reversed(metrics) if name in m), None)


def kind(summary: dict[str, Any]) -> str:
    """Name a kind of run: its mode, and whether it corrects a base."""
    return MODES.get(summary.get("mode") or "", "run") + (" residual" if summary.get("base") else "")


def labels(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Name each run by its ``label``, or else by its mode and by whatever tells them apart, but for the seed.

    >>> labels([{"mode": "rpd", "task": "A"}, {"mode": "ppo", "task": "A"}, {"mode": "ppo", "task": "B"}])
    ['RPD · A', 'PPO · A', 'PPO · B']
    """
    differ = [
        k for k in ("task", "robot", "reward", "obs", "teacher", "base") if len({s.get(k) for s in summaries} - {None}) > 1
    ]
    return [s.get("label") or " · ".join([kind(s), *(str(s[k]) for k in differ if s.get(k))]) for s in summaries]


def in_order(names: Sequence[str]) -> list[str]:
    """Return the distinct labels, RPD first; the place of a label is its colour."""
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
    """Join the curves of several seeds: their mean, and a band from the lowest to the highest.

    Curves are interpolated linearly over the steps that all of them cover, and averaged over windows where there are
    more than `points` of them.

    Args:
        label: of the line.
        curves: (x, y) per seed, x ascending; empty ones are left out.
        color: index into the palette.
        points: most points to draw.
    """
    filled = [(np.asarray(x, float), np.asarray(y, float)) for x, y in curves if len(x)]
    if not filled:
        return Series(label, [], [], color=color)
    grid = np.unique(np.concatenate([x for x, _ in filled]))
    grid = grid[(grid >= max(x[0] for x, _ in filled)) & (grid <= min(x[-1] for x, _ in filled))]
    values = np.stack([np.interp(grid, x, y) for x, y in filled])  # [seeds, X]
    if len(grid) > points:
        windows = np.array_split(np.arange(len(grid)), points)
        values = np.stack([values[:, w].mean(1) for w in windows], axis=1)
        grid = np.array([grid[w].mean() for w in windows])
    low, high = (values.min(0).tolist(), values.max(0).tolist()) if len(filled) > 1 else (None, None)
    return Series(label, grid.tolist(), values.mean(0).tolist(), low, high, color)
