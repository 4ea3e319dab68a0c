"""Read runs, complete or not, from their folders; used by reports and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rpd.config.resume import check_complete
from rpd.core.numbers import check_numbers
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import words
from rpd.runs.tracker import read_metrics

EPISODES = (
    "max_episode_steps", "domain_randomization", "control_mode", "rendering", "settled_with", "sim_backend",
    "ignore_terminations", "make_kwargs", "success",
    "reconfigure", "cameras", "image_size", "frame_stack",
)  # fmt: skip
"""Environment options that distinguish runs in reports; runs that differ only in the seed share them."""
SWEEP_SETTINGS, SWEEP_LOGS = "settings.yaml", "logs"
"""Files of `rpd sweep` in the folder of its runs."""
Metrics = list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """A run folder. Fields of files that do not exist (yet) are empty."""

    path: Path
    config: str
    """Text of config.yaml."""
    summary: dict[str, Any]
    """Configuration values (task, algorithm, teacher, seed, reward, obs_mode, steps, ...), overridden by result.json."""
    metrics: Metrics
    info: dict[str, Any]
    """env.json."""

    @property
    def complete(self) -> bool:
        """Whether the run has its result, the final comparison of student and teacher."""
        return "student" in self.summary


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        ConfigError: the folder is not a run, or one of its files is damaged.
    """
    path = Path(path)
    if not (path / "config.yaml").exists() and not (path / "metrics.jsonl").exists():
        raise ConfigError(f"{path} is not a run: it has neither config.yaml nor metrics.jsonl")
    text = (path / "config.yaml").read_text() if (path / "config.yaml").exists() else ""
    check_complete(path / "config.yaml", text)
    config = _mapping(path / "config.yaml", text)
    metrics = read_metrics(path)
    summary = {key: config.get(key) for key in ("task", "algorithm", "teacher", "base", "pretrained_path", "seed")}
    summary |= {key: config.get("env", {}).get(key) for key in ("reward", "obs_mode", "robot")}
    summary |= {key: words(value) for key in EPISODES if (value := config.get("env", {}).get(key)) not in (None, [])}
    summary["options"] = dict(_flat(config))
    summary["steps"] = max((m["step"] for m in metrics), default=0)
    summary["wall_s"] = last(metrics, "time/wall")
    summary["teacher_queries"] = last(metrics, "teacher/queries")
    return Run(path, text, summary | read_json(path / "result.json"), metrics, read_json(path / "env.json"))


def runs_in(paths: Sequence[Path]) -> list[Path]:
    """Expand folders of runs, as `rpd sweep` writes them, into their runs; a sweep's other files are dropped.

    Paths that are neither stay as they are, for the reader to report.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(file.parent for file in path.glob("*/config.yaml"))
        if (path / "config.yaml").exists() or not (inside or _of_sweep(path)):
            found.append(path)
        else:
            found += inside
    return list(dict.fromkeys(found))


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options by dotted name, as text."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", words(value)


def _of_sweep(path: Path) -> bool:
    """Whether a path in a sweep's folder is not a run: its logs, its settings, a report."""
    return (path.parent / SWEEP_SETTINGS).is_file() and (path.is_file() or path.name == SWEEP_LOGS)


def _mapping(file: Path, text: str) -> dict[str, Any]:
    """Parse a config.yaml.

    Raises:
        ConfigError: the text is not YAML, or not a mapping.
    """
    config = unique_yaml.load(text, str(file)) or {}
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: has to be a mapping of options, e.g. 'total_timesteps: 100000'")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty if the file does not exist.

    Raises:
        ConfigError: the file is not a JSON object, or a value that must be a number is not.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError as error:  # not UTF-8, not JSON
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return check_numbers(value, str(path))


def valid_result(run_dir: Path) -> dict[str, Any]:
    """Return result.json of a complete run; empty if it is missing or damaged and must be written again."""
    try:
        result = read_json(run_dir / "result.json")
    except ConfigError:
        return {}
    return result if "steps" in result else {}


def last(metrics: Metrics, name: str) -> float | None:
    """Return the newest value of a metric, None if it was never logged."""
    return next((m[name] for m in reversed(metrics) if name in m), None)


def _strictly_ascending(x: np.ndarray) -> np.ndarray:
    """Separate equal counts by a tiny amount, so that interpolation keeps each point, e.g. after the last teacher query."""
    repeats = np.arange(len(x)) - np.searchsorted(x, x)  # 0 for the first of equal values
    return x + 1e-6 * repeats
