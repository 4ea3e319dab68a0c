"""Environment in which a policy was trained, read from its folder, and differences from another environment."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from rpd import export
from rpd.config.loader import run_settings, validate
from rpd.envs.rebuild import UNRECORDED, differences, recorded
from rpd.envs.specs import EnvSpec
from rpd.runs.paths import is_generalist_run, run_of
from rpd.students.io import pretrained
from rpd.students.io.policy_path import resolve_policy
from rpd.teachers.refs import trained_path


def made_for(path: Path, task: str | None = None, robot: str | None = None) -> EnvSpec:
    """Return the spec of the environment in which a policy was trained.

    Args:
        path: a run, a checkpoint, a policy folder, or an exported policy.
        task: preferred task of a generalist; None: the first.
        robot: preferred robot of a generalist; None: the first.

    Returns:
        The spec. Its ``settings`` are None if neither the folder nor its run records them.

    Raises:
        ConfigError: no policy at the path, or a damaged one.
    """
    if export.is_exported(path):
        spec = export.spec_of(path)
    else:
        described = pretrained.describe(resolve_policy(path))
        spec = _member((described.spec, *(described.members or ())), task, robot)
    return spec if spec.settings is not None else _from_run(spec, path)


def remarks(here: EnvSpec, *names: str | None, but: Container[str] = ()) -> list[str]:
    """Return one line per trained policy whose training environment differs from `here`, or is not recorded.

    Args:
        here: spec of the environment in which the policies act or label.
        names: policy references; those that are not paths are skipped.
        but: options that are expected to differ, see `rpd.envs.rebuild.differences`.
    """
    lines = []
    for name in dict.fromkeys(names):
        if (path := trained_path(name)) is None:
            continue
        spec = made_for(path, here.task, here.embodiment.name)
        if spec.settings is None:
            lines.append(f"{name}: its folder does not record all settings of its training; assumed: {UNRECORDED}")
        if differ := differences(spec, here, but):
            lines.append(f"{name} was trained in another environment: {'; '.join(differ)}")
    return lines


def _member(members: tuple[EnvSpec, ...], task: str | None, robot: str | None) -> EnvSpec:
    """Return the first environment with the task and the robot, or else with the task, or else the first."""
    own = members[0]
    wanted = (task or own.task, robot or own.embodiment.name)
    return max(members, key=lambda spec: (spec.task == wanted[0], spec.embodiment.name == wanted[1]))


def _from_run(spec: EnvSpec, path: Path) -> EnvSpec:
    """Add the settings from the run's config.yaml, for a policy saved by a version whose specs had no settings."""
    run = run_of(path)
    if run is None or is_generalist_run(run):
        return spec
    config = validate(run_settings(run / "config.yaml"), str(run / "config.yaml")).env
    return recorded(spec, config).model_copy(update={"control_mode": config.control_mode})
