"""Environments of evaluations."""

from __future__ import annotations

from typing import Any, Literal

from rpd import export
from rpd.config.evaluation import EvalConfig
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import config_for, words
from rpd.policies.cameras import with_teacher_cameras
from rpd.policies.made_for import made_for
from rpd.teachers.adapters.student import base_of
from rpd.teachers.refs import teacher_of, trained_path

MAX_EVAL_ENVS = 128


def eval_config(task: str, env: EnvConfig, episodes: int, ranks: int = 1) -> EnvConfig:
    """Environment configuration of evaluations shared by a number of ranks: whole episodes, as many in parallel as is fast."""
    episodes = -(-episodes // ranks)
    return env.model_copy(update={"num_envs": min(episodes, envs.task_info(task).max_useful_envs or MAX_EVAL_ENVS)})


SHARED = (
    "robot", "reward", "max_episode_steps", "domain_randomization", "limits", "control_mode", "rendering", "settled_with",
    "sim_backend", "ignore_terminations", "reconfigure", "make_kwargs", "success", "instruction",
)  # fmt: skip
"""Environment options that determine the episodes; policies that are compared must agree in them."""


def environments(options: EvalConfig, names: list[str]) -> tuple[str, list[EnvConfig]]:
    """Task and one environment per policy: from the options, else as each policy was trained.

    All environments have the same episodes; they differ only in the observations (images or state).

    Raises:
        ConfigError: no task is given, or two policies were trained on different episodes; names both sides.
    """
    paths = {name: path for name in names if (path := trained_path(name))}
    known = {name: made_for(path, options.task, options.robot) for name, path in paths.items()}
    task = options.task or _agreed("task", {name: spec.task for name, spec in known.items()})
    if task is None:
        raise ConfigError(f"{options.policy}: on which task? add --task, e.g. --task tabletop/PickCube")
    chosen = {key: value for key in SHARED if (value := getattr(options, key)) is not None}
    own = {name: config_for(spec, task, options.robot).model_copy(update=chosen) for name, spec in known.items()}
    num_envs = options.num_envs or envs.task_info(task).max_useful_envs or MAX_EVAL_ENVS
    base = next(iter(own.values()), EnvConfig(**chosen)).model_copy(update={"num_envs": min(options.episodes, num_envs)})
    for key in SHARED:
        _agreed(key, {name: getattr(config, key) for name, config in own.items()})
    return task, [_seen(name, own.get(name), base, options.obs_mode) for name in names]


def _seen(name: str, own: EnvConfig | None, base: EnvConfig, obs: Literal["state", "rgb"] | None) -> EnvConfig:
    """`base` with the observations of a policy, and of the teacher it corrects, as in training."""
    source = own or base
    observed = {key: getattr(source, key) for key in ("obs_mode", "cameras", "image_size", "frame_stack")}
    if obs not in (None, source.obs_mode):
        observed = {"obs_mode": obs, "cameras": None, "image_size": None, "frame_stack": 1}
    watcher = _watcher(name)
    watched = own if own and watcher else EnvConfig()
    views = {key: getattr(watched, key) for key in ("teacher_cameras", "teacher_image_size")}
    return with_teacher_cameras(base.model_copy(update=observed | views), watcher)


def _agreed(option: str, sides: dict[str, Any]) -> Any:
    """The value that all policies share; None without policies.

    Raises:
        ConfigError: they differ.
    """
    if len(set(sides.values())) > 1:
        flag = f"--{option.replace('_', '-')}"
        said = ", ".join(f"{name} {words(value)}" for name, value in sides.items())
        raise ConfigError(f"trained in different environments ({option}: {said}): choose one for both with {flag}")
    return next(iter(sides.values()), None)


def _watcher(name: str) -> str | None:
    """Teacher with its own cameras that acts as part of a policy, if any."""
    if (path := trained_path(name)) is not None:
        if export.is_exported(path):
            return None
        return base_of(path)
    return teacher_of(name)
