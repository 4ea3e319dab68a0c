"""Options that a run does not read.

Those in `UNUSED` are refused where a user sets them, with the option to use instead; all of them are left out of the help of a
task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpd.config.schema import RunConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import simulator_options
from rpd.envs.simulator_options import SIMULATOR_OPTIONS

UNUSED = {"bc": ("ppo", "distill")}
"""Groups without effect, by algorithm."""
INSTEAD = {
    "ppo.learning_rate": "bc.learning_rate",
    "ppo.anneal_lr": "bc.anneal_lr",
    "ppo.num_steps": "bc.batch_size",
    "ppo.num_minibatches": "bc.batch_size",
    "ppo.update_epochs": "total_timesteps",
    "distill.divergence": "bc.loss",
}
"""Options of algorithm bc that correspond to an unused one."""

_DEMOS = ("demos", "bc")
_TEACHER = ("teacher", "distill")
_TEACHER_CAMERAS = ("env.teacher_cameras", "env.teacher_image_size")
_IMAGES = (
    "env.cameras", "env.image_size", "env.frame_stack", "student.image_feature_dim", "student.image_channels",
    "student.augment", "student.state_estimator", "state_estimator",
)  # fmt: skip
_ACTOR_CRITIC = (
    "pretrained_path", "student.hidden_dims", "student.init_log_std", "student.min_log_std", "student.asymmetric_critic",
    "student.state_estimator", "state_estimator", "bc.loss",
)  # fmt: skip
_DIFFUSION = ("diffusion", "bc.sampler")


def check_applicable(algorithm: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse options without effect.

    Args:
        algorithm: of the run.
        before: nested configuration without the options of a user.
        after: the same with them.

    Raises:
        ConfigError: one of a group in `UNUSED` differs; names it and the option to use instead.
    """
    for group in UNUSED.get(algorithm, ()):
        for name, value in after[group].items():
            if before[group][name] != value:
                full = f"{group}.{name}"
                remedy = f"use {INSTEAD[full]}" if full in INSTEAD else "leave it out"
                raise ConfigError(f"{full} has no effect with algorithm {algorithm}: {remedy}")


def inapplicable(config: RunConfig) -> set[str]:
    """Dotted names of the options and groups that do not apply to a run's task, algorithm, observations and student.

    Raises:
        ConfigError: the task's simulator is not installed.
    """
    read = simulator_options(config.task)
    names = {f"env.{name}" for options in SIMULATOR_OPTIONS if options not in read for name in options.model_fields}
    names |= {*UNUSED.get(config.algorithm, ())}
    if config.algorithm != "bc":
        names |= {*_DEMOS}
    if config.algorithm in ("ppo", "bc"):
        names |= {*_TEACHER}
        if config.base is None:  # a base that is a teacher may need cameras of its own
            names |= {*_TEACHER_CAMERAS}
    if config.base is not None:
        names |= {"pretrained_path"}
    if config.env.obs_mode == "state":
        names |= {*_IMAGES}
    return names | {*(_ACTOR_CRITIC if config.student.type == "diffusion" else _DIFFUSION)}
