"""Step: the box in which the tool may move, confirmed or taught by hand."""

from __future__ import annotations

import numpy as np

from rpd.deploy.commissioning.console import StepFailed, choose, confirmed
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.config import RobotConfig
from rpd.envs.control.arm import Arm, Array
from rpd.envs.robots import ROBOTS

SMALLEST = 0.02
"""Smallest side of the box, m."""
DONE = "done"


def check_workspace(walk: Walk) -> str:
    """Confirm the box of the robot file, or measure one."""
    station, console = walk.station, walk.console
    console.show(f"limits.workspace: {_words(np.array(station.config.limits.workspace).T)}")
    ways = {"keep": "it is right", "teach": "guide the tool by hand to its corners"}
    if choose(console, "Is this free of everything but the objects of the task?", ways) == "keep":
        return f"kept, {_words(np.array(station.config.limits.workspace).T)}"
    box = _taught(walk)
    if not confirmed(console, f"The tool may move within {_words(box)}?"):
        raise StepFailed("not confirmed: the workspace is unchanged")
    station.config = with_workspace(station.config, box)
    return f"taught, {_words(box)}"


def with_workspace(config: RobotConfig, box: Array) -> RobotConfig:
    """Replace the workspace of a robot.

    Args:
        config: config of the robot.
        box: lowest and highest corner [2, 3], m.
    """
    ranges = tuple((round(float(low), 3), round(float(high), 3)) for low, high in box.T)
    return config.model_copy(update={"limits": config.limits.model_copy(update={"workspace": ranges})})


def box_of(points: Array, lowest: float) -> Array:
    """Smallest box [2, 3] around points [K, 3], m.

    Args:
        points: positions of the tool.
        lowest: smallest height of the tool that the robot file allows, m: a finger that touches the table while it is guided
            is no permission to command it there.

    Raises:
        StepFailed: the points span no volume; names the axis.
    """
    box = np.stack([points.min(axis=0), points.max(axis=0)])
    box[0, 2] = max(box[0, 2], lowest)
    for axis, (low, high) in zip("xyz", box.T, strict=True):
        if high - low < SMALLEST:
            raise StepFailed(f"the points span {1000 * (high - low):.0f} mm along {axis}: guide the tool to opposite corners")
    return box


def _taught(walk: Walk) -> Array:
    """Box around the positions to which a person guides the tool."""
    station, console = walk.station, walk.console
    arm, points = Arm(ROBOTS[station.config.kinematics]), list[Array]()
    console.show("Guide the tool by hand (free drive) to opposite corners of the space: low and near, high and far.")
    while True:
        typed = console.ask(f"Corner {len(points) + 1}: hold the tool there. Press Enter, or type {DONE}:")
        if typed == DONE:
            break
        with station.connected() as robot:
            points.append(arm.forward(robot.read().joints[None])[0][0])
        console.show("  " + " ".join(f"{axis} {value:.3f} m" for axis, value in zip("xyz", points[-1], strict=True)))
    if len(points) < 2:
        raise StepFailed("two corners at least are needed")
    return box_of(np.array(points), station.config.limits.workspace[2][0])


def _words(box: Array) -> str:
    return ", ".join(f"{axis} {low:.3f} to {high:.3f} m" for axis, (low, high) in zip("xyz", box.T, strict=True))
