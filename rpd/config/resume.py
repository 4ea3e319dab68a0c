"""A run's config.yaml on resume: detection of truncated files, and checks of changed options.

The file ends with a marker, so that a truncated one is detected. Options in `MAY_CHANGE` may change within a run and apply from
the checkpoint on; any other change is an error that names the option and both values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from rpd.config.generalist import DistillRun
from rpd.config.schema import RunConfig
from rpd.config.vla_finetuning import CloneConfig
from rpd.core.files import write_text
from rpd.envs import unique_yaml
from rpd.envs.errors import ConfigError

FILE, INFO = "config.yaml", "env.json"
END = "..."
"""End marker of a YAML document: the last line of a run's config.yaml."""
Tree = Mapping[str, Any]
ConfigT = TypeVar("ConfigT", bound=BaseModel)

_ANYWHERE = ("device", "num_threads", "track", "final_eval_episodes", "save_freq", "max_checkpoints")
_DISTILL = (
    "weight", "decay_steps", "points", "reward_points", "gate_beta", "gate_std", "normalize_gate", "detach_std",
    "min_teacher_std", "kde_bandwidth", "bin_tail_std", "bin_smoothing_std", "uniform_mix", "opd_samples", "opd_clip",
    "jsd_beta", "skew_alpha", "label_fraction",
)  # fmt: skip
MAY_CHANGE: dict[type[BaseModel], tuple[str, ...]] = {
    RunConfig: (
        *_ANYWHERE, "total_timesteps", "eval_freq", "eval_episodes", "demos", "env.num_workers", "ppo",
        *(f"distill.{name}" for name in _DISTILL),
        "state_estimator.learning_rate", "state_estimator.num_minibatches", "state_estimator.minibatch_size",
        "bc.learning_rate", "bc.anneal_lr", "bc.warmup_steps", "bc.weight_decay", "bc.ema_decay", "bc.sampler",
        "teacher",  # may be another name of the same files, see `rpd.policies.identity.begun_with`
    ),
    DistillRun: (
        *_ANYWHERE, "held_out", "failed_episode_weight", "dagger_iterations", "aggregate_dataset", "divergence",
        "min_teacher_std",
        "detach_std", "batch_size", "learning_rate", "weight_decay", "num_envs", "eval_episodes",
    ),
    CloneConfig: (
        "device", "num_threads", "track", "save_freq", "train_steps", "batch_size", "balance", "learning_rate", "warmup_steps",
        "weight_decay",
        "smoothing", "eval_freq", "eval_episodes", "max_bytes",
    ),
}  # fmt: skip
"""Options, or groups of them, that may change on resume: in the run's config.yaml, or by an option with ``--resume``."""


def write(run_dir: Path, config: BaseModel) -> None:
    """Write config.yaml, atomically."""
    write_text(run_dir / FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, explicit_end=True))


def check_complete(path: Path, text: str) -> None:
    """Reject a truncated config.yaml of a run: missing options would silently take their defaults.

    Args:
        path: path of the file; files outside runs need no end marker.
        text: its content.

    Raises:
        ConfigError: the end marker is missing.
    """
    is_run = path.name == FILE and (path.parent / INFO).exists()
    if is_run and text.rstrip().rpartition("\n")[2] != END:
        raise ConfigError(f"{path} is cut off: a run's {FILE} ends with the line '{END}'; put it back, or add the line")


def reconcile(path: Path, config: BaseModel, saved: Tree) -> list[str]:
    """Compare a run's config.yaml with the configuration in its checkpoint.

    Args:
        path: path of config.yaml.
        config: its current content.
        saved: the configuration in the checkpoint.

    Returns:
        Changes that apply, e.g. ``["total_timesteps 6400 -> 12800"]``.

    Raises:
        ConfigError: an option is missing or must not change within a run; names it.
    """
    given, then, now = flat(unique_yaml.load(path.read_text(), str(path))), flat(saved), flat(config.model_dump(mode="json"))
    if missing := [name for name in then if name not in given]:
        raise ConfigError(
            f"{path}: {missing[0]} is missing: put it back (the checkpoint was made with {_text(then[missing[0]])})"
        )
    return _changes(type(config), then, now, str(path), "set it back, or start another run")


def changes(run_dir: Path, config: ConfigT, wanted: ConfigT) -> list[str]:
    """Compare a run's configuration with the one to continue with.

    Args:
        run_dir: the run's folder, for messages.
        config: configuration of the run.
        wanted: `config` with some options replaced.

    Returns:
        Changes, e.g. ``["total_timesteps 6400 -> 12800"]``.

    Raises:
        ConfigError: an option must not change within a run; names it, with both values.
    """
    then, now = flat(config.model_dump(mode="json")), flat(wanted.model_dump(mode="json"))
    return _changes(type(config), then, now, str(run_dir), "leave it out, or start another run")


def _changes(model: type[BaseModel], then: dict[str, Any], now: dict[str, Any], where: str, remedy: str) -> list[str]:
    """Differences between two configurations by dotted name, checked against `MAY_CHANGE`."""
    changed = {name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]}
    for name, (before, after) in changed.items():
        if not _among(name, MAY_CHANGE[model]):
            raise ConfigError(f"{where}: {name} {_text(after)} cannot change within a run, which has {_text(before)}: {remedy}")
    return [f"{name} {_text(before)} -> {_text(after)}" for name, (before, after) in changed.items()]


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested mapping by dotted name; a list is a leaf.

    >>> flat({"ppo": {"learning_rate": 0.1}, "cameras": ["front"]})
    {'ppo.learning_rate': 0.1, 'cameras': ['front']}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _among(name: str, names: Collection[str]) -> bool:
    """Return whether an option is one of `names`, or in one of these groups."""
    return any(name == other or name.startswith(f"{other}.") for other in names)


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)
