"""Reconstruct the configuration of an environment from the spec saved with a policy."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from rpd.envs import user_files
from rpd.envs.config import EnvConfig
from rpd.envs.control.limit_config import label, self_contained
from rpd.envs.simulator_options import TabletopOptions
from rpd.envs.specs import EnvSpec, Settings

UNRECORDED = "no randomisation, and the simulator's default controller, backend and episode ends"
"""Options that `config_for` assumes for a spec without `Settings`."""


def recorded(spec: EnvSpec, config: EnvConfig) -> EnvSpec:
    """Spec of an environment, with the options that it was built with."""
    options = config.model_dump(include=set(Settings.model_fields))
    options["limits"] = self_contained(config.limits)
    return spec.model_copy(update={"settings": Settings(**options, imports=user_files.loaded())})


def config_for(spec: EnvSpec, task: str | None = None, robot: str | None = None) -> EnvConfig:
    """Configuration of a spec's environment, for the same or another task or robot.

    Another task or robot uses its own episode length: a slower robot gets more time. A task of another simulator shares
    only the observation.

    Args:
        spec: spec saved with a policy.
        task: None: task of the spec.
        robot: None: robot of the spec.
    """
    ours, body = task or spec.task, spec.embodiment.name
    config = EnvConfig(robot=robot if robot or "+" in body else body, **_observed(spec))
    if _simulator(ours) != _simulator(spec.task):
        return config.model_copy(update={"robot": robot})
    of_arm = set() if _simulator(ours) == "tabletop" else set(TabletopOptions.model_fields)
    options = (spec.settings or Settings()).model_dump(exclude={"imports", *of_arm})
    options |= {name: getattr(spec, name) for name in ("reward", "rendering", "settled_with", "control_mode")}
    if (ours, config.robot or body) == (spec.task, body):
        options["max_episode_steps"] = spec.max_episode_steps
    return config.model_copy(update=options)


def differences(trained: EnvSpec, here: EnvSpec, but: Container[str] = ()) -> list[str]:
    """Differences between training and current episodes, one phrase per option, e.g. ``"max_episode_steps 20, here 50"``.

    Excludes observations, which are checked by `EnvSpec.check_policy`, and the options in `but`.
    """
    sides = zip(episode_options(trained).items(), episode_options(here).values(), strict=True)
    return [f"{name} {words(a)}, here {words(b)}" for (name, a), b in sides if a != b and name not in but]


def summary(spec: EnvSpec) -> str:
    """One-line summary of the episodes of an environment."""
    task, robot, reward, steps, *others = episode_options(spec).items()
    optional = [f"{name} {words(value)}" for name, value in others if value]
    return ", ".join(
        [f"{task[1]} on {robot[1]}", f"{reward[1]} reward", f"{steps[1]} steps at {spec.control_hz:g} Hz", *optional]
    )


def _observed(spec: EnvSpec) -> dict[str, Any]:
    cameras = tuple(key.removeprefix("image.") for key in spec.observations if key.startswith("image."))
    if not cameras:
        return {}
    size = spec.observations[f"image.{cameras[0]}"].shape[0]
    return {"obs_mode": "rgb", "cameras": cameras, "image_size": size, "frame_stack": spec.frames}


def episode_options(spec: EnvSpec) -> dict[str, Any]:
    """Options of an environment that determine its episodes, by name."""
    settings = spec.settings or Settings()
    names: tuple[str, ...] = ("sim_backend", "ignore_terminations", "reconfigure")
    if _simulator(spec.task) == "tabletop":
        names = tuple(TabletopOptions.model_fields)
    elif _simulator(spec.task) == "gym":
        names = ("make_kwargs", "success")
    return {
        "task": spec.task,
        "robot": spec.embodiment.name,
        **{name: getattr(spec, name) for name in ("reward", "max_episode_steps", "control_mode", "rendering", "settled_with")},
        **{name: getattr(settings, name) for name in names},
    }


def words(value: Any) -> str:
    """Format the value of an option for a message."""
    if isinstance(value, str):
        return label(value)
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "none"
    return "default" if value is None else str(value)


def _simulator(task: str) -> str:
    return task.split("/", 1)[0]
