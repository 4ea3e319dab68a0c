"""Export a policy by its reference."""

from __future__ import annotations

from pathlib import Path

from rpd.envs.errors import ConfigError
from rpd.export import formats, runtime
from rpd.export.write import write
from rpd.policies.made_for import made_for
from rpd.runs.paths import run_of
from rpd.students.io.policy_path import resolve_policy
from rpd.students.loading import load
from rpd.teachers.refs import required_path


def export_policy(
    policy: Path | str,
    out: Path | str | None = None,
    *,
    robot: str | None = None,
    task: str | None = None,
    sampler: str | None = None,
) -> runtime.Policy:
    """Export a trained policy to a new folder that needs only numpy and onnxruntime to run, and test the export.

    Args:
        policy: policy reference to a run, a checkpoint or a policy folder.
        out: folder to write; None: ``export/onnx`` in the run.
        robot: robot to export for, if the policy supports several; None: the training robot.
        task: task to export for, if the policy supports several; None: the training task.
        sampler: sampler of a diffusion policy, e.g. ``ddim:steps=16``; None: its default.

    Returns:
        The exported policy, loaded from `out` (attribute ``folder``): ``act({"state": state})`` returns [A] in [-1, 1].

    Raises:
        ConfigError: no such policy, an existing folder, a missing extra, or an export whose actions differ from the policy's.
        SpecMismatch: the policy does not fit the robot or the task; names both sides.
        OSError: e.g. a full disk; partial output is removed.
    """
    path = required_path(policy)
    source = resolve_policy(path)
    formats.check()
    student = load(source)
    own = made_for(source, task, robot)
    return write(student, source, own, _place(path) if out is None else Path(out), robot, task, sampler)


def _place(path: Path) -> Path:
    """Return ``export/onnx`` in the run that contains a path."""
    run = run_of(path)
    if run is None:
        raise ConfigError(f"{path} is not in a run: set the output folder with --out")
    return run / "export" / runtime.FORMAT
