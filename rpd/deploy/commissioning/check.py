"""The commissioning: its steps in order, and where it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rpd.config.commissioning import CheckConfig
from rpd.deploy import config as configs
from rpd.deploy.commissioning.connection import connect, rates
from rpd.deploy.commissioning.console import Console, StepFailed
from rpd.deploy.commissioning.gripper import check_gripper
from rpd.deploy.commissioning.hand_eye import calibrate_cameras
from rpd.deploy.commissioning.joints import check_joints
from rpd.deploy.commissioning.pictures import check_cameras
from rpd.deploy.commissioning.progress import Progress
from rpd.deploy.commissioning.robot_file import dry_run, write_file
from rpd.deploy.commissioning.station import Station
from rpd.deploy.commissioning.walk import Step, Walk
from rpd.deploy.commissioning.workspace import check_workspace
from rpd.deploy.consent import require_terminal
from rpd.deploy.outcome import Stop
from rpd.deploy.safety import Unsafe
from rpd.envs.errors import RunFault, unknown_name

STEPS: Sequence[Step] = (
    Step("connection", "the robot answers, and stands as it reports", connect),
    Step("rates", "measurements are fresh and frequent", rates),
    Step("joints", "zero and direction of each joint", check_joints),
    Step("gripper", "the gripper opens and closes", check_gripper),
    Step("workspace", "the box in which the tool may move", check_workspace),
    Step("cameras", "each camera shows what the training showed", check_cameras),
    Step("hand-eye", "pose and field of view of the cameras", calibrate_cameras),
    Step("file", "the robot's file", write_file),
    Step("dry-run", "a policy acts, and nothing is sent", dry_run),
)


def commission(options: CheckConfig, console: Console) -> Path:
    """Walk through all steps that are not done.

    Args:
        options: options.
        console: terminal of the person.

    Returns:
        The robot file that was written.

    Raises:
        ConfigError: bad options; or a real robot, and no terminal.
        RunFault: a step is not done; names it, with the remedy.
    """
    names = [step.name for step in STEPS]
    for name in options.again:
        if name not in names:
            raise unknown_name("step", name, names)
    walk = _begin(options, console)
    changed = False
    with contextlib.closing(walk.station):
        for i, step in enumerate(STEPS):
            head = f"{i + 1} of {len(STEPS)}, {step.name}: {step.about}"
            repeated = step.name in options.again or (changed and step.name in FOLLOW)
            if (result := walk.progress.done.get(step.name)) and not repeated:
                console.show(f"[done] {head}: {result['summary']} ({result['when']})")
                continue
            changed = True
            console.show(f"[{head}]")
            _run(walk, step)
    return walk.out


FOLLOW = ("file", "dry-run")
"""Steps that follow from the others: repeated after any of them."""


def _begin(options: CheckConfig, console: Console) -> Walk:
    config, stem = configs.load(options.robot, options.driver), Path(options.robot).stem
    folder = options.folder or Path("runs") / f"check-{stem}"
    progress = Progress.load(folder, options.robot, config)
    station = Station(options.robot, progress.config, options.task, options.host, options.estop_file, options.policy)
    if station.real:
        require_terminal(options.robot)
    return Walk(station, console, progress, options, folder, options.out or Path(f"{stem}-checked.yaml"))


def _run(walk: Walk, step: Step) -> None:
    """Run a step and note its result.

    Raises:
        RunFault: it is not done.
    """
    try:
        summary = step.run(walk)
    except (StepFailed, Stop, Unsafe, RunFault) as failure:
        raise RunFault(f"step {step.name}: {failure}; the same command goes on from here") from None
    walk.progress.finish(step.name, summary, walk.station.config)
    walk.console.show(f"[done] {step.name}: {summary}")
