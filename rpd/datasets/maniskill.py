"""Metadata that ManiSkill's own trajectory files lack, obtained by building the recorded task."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from rpd.datasets.episode import Array
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec, ObsSpec

REPLAY = "python -m mani_skill.trajectory.replay_trajectory --save-traj -b physx_cpu -o state -c pd_ee_delta_pose --traj-path"


def recorded_in(task: str, meta: Mapping[str, Any]) -> EnvSpec:
    """Build the task of a trajectory file with the recorded options, and return its spec.

    Args:
        task: registry name.
        meta: content of the trajectory's JSON file.

    Raises:
        ConfigError: ManiSkill or its driver is missing, or has no such task, robot or controller.
    """
    info, episodes = meta["env_info"], meta["episodes"]
    arguments = info.get("env_kwargs", {})
    mode = episodes[0].get("control_mode") or arguments.get("control_mode")
    return _built(task, arguments.get("robot_uids"), mode)


@functools.cache
def _built(task: str, robot: str | None, control_mode: str | None) -> EnvSpec:
    config = EnvConfig(num_envs=1, num_workers=1, robot=robot, control_mode=control_mode)
    with contextlib.closing(registry.make(task, config)) as env:
        return env.spec


def entry_names(spec: EnvSpec, path: str, width: int) -> tuple[str, ...] | None:
    """Names of the entries of one dataset of observations in this project's convention; None if they are unknown.

    Args:
        spec: spec of the environment with state observations.
        path: path of the dataset: ``obs`` for a flat state, else e.g. ``obs/agent/qpos``.
        width: numbers per step.
    """
    stem = ".".join(path.split("/")[2:])
    names = tuple(n for n in spec.state_names if not stem or n == stem or n.startswith(f"{stem}."))
    return names if len(names) == width else None


def described(spec: EnvSpec, state_names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> EnvSpec:
    """Return the environment's spec with the observations of the file."""
    observations = {
        key: ObsSpec(shape=shape, dtype="float32" if key == "state" else "uint8")
        for key, shape in shapes.items()
        if key == "state" or key.startswith("image.")
    }
    return spec.model_copy(update={"observations": observations, "state_names": state_names})


def check_actions(actions: Array, spec: EnvSpec, where: str) -> None:
    """Reject actions [T, A] that do not match the environment.

    Raises:
        ConfigError: the dimension differs, or the actions are not normalized; names the conversion command.
    """
    if actions.shape[1] != spec.action.dim:
        raise ConfigError(f"{where}: actions have {actions.shape[1]} dimensions, {spec.task} takes {spec.action.dim}")
    if (largest := abs(actions).max()) > 1.01:
        raise ConfigError(f"{where}: actions up to {largest:.2f} are not normalized: {REPLAY} {where}")
