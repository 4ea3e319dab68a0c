"""What ManiSkill's own trajectory files do not say of themselves: asked of the task that they were recorded in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from envs import registry
from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.maniskill.tasks import PREFIX
from envs.specs import EnvSpec, ObsSpec
from rpd.demos.episode import Array

REPLAY = "python -m mani_skill.trajectory.replay_trajectory --save-traj -b physx_cpu -o state -c pd_ee_delta_pose --traj-path"


def recorded_in(meta: Mapping[str, Any]) -> EnvSpec:
    """Build the task of a trajectory file as it was when it was recorded, and return its spec.

    Args:
        meta: the JSON beside it.

    Raises:
        ConfigError: ManiSkill or its driver is missing, or has no such task, robot or controller.
    """
    info, episodes = meta["env_info"], meta["episodes"]
    arguments = info.get("env_kwargs", {})
    mode = episodes[0].get("control_mode") or arguments.get("control_mode")
    return _built(PREFIX + info["env_id"], arguments.get("robot_uids"), mode)


@functools.cache
def _built(task: str, robot: str | None, control_mode: str | None) -> EnvSpec:
    config = EnvConfig(num_envs=1, num_workers=1, robot=robot, control_mode=control_mode)
    with contextlib.closing(registry.make(task, config)) as env:
        return env.spec


def entry_names(spec: EnvSpec, path: str, width: int) -> tuple[str, ...] | None:
    """Name what is in one dataset of observations as this project names it; None where it does not know it.

    Args:
        spec: of the environment, observed from state.
        path: of the dataset: ``obs`` for a state in one piece, else e.g. ``obs/agent/qpos``.
        width: numbers per step.
    """
    stem = ".".join(path.split("/")[2:])
    names = tuple(n for n in spec.state_names if not stem or n == stem or n.startswith(f"{stem}."))
    return names if len(names) == width else None


def described(spec: EnvSpec, state_names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> EnvSpec:
    """The spec of what a file holds: the environment's, with the file's observations."""
    observations = {
        key: ObsSpec(shape=shape, dtype="float32" if key == "state" else "uint8")
        for key, shape in shapes.items()
        if key == "state" or key.startswith("image.")
    }
    return spec.model_copy(update={"observations": observations, "state_names": state_names})


def check_actions(actions: Array, spec: EnvSpec, where: str) -> None:
    """Refuse actions [T, A] that are not those of the environment.

    Raises:
        ConfigError: they have other dimensions, or are not normalised; says how to convert them.
    """
    if actions.shape[1] != spec.action.dim:
        raise ConfigError(f"{where}: actions of {actions.shape[1]} numbers, and {spec.task} takes {spec.action.dim}")
    if (largest := abs(actions).max()) > 1.01:
        raise ConfigError(
            f"{where}: actions up to {largest:.2f} are those of a controller that is not normalised: {REPLAY} {where}"
        )
