"""Motion that a policy asks for, from a recording: largest steps, joints that limits hold back, and the path of the tool."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpd.datasets.deploy_log.format import OPERATOR
from rpd.deploy.safety import EPSILON
from rpd.envs.control.arm import Arm, Array
from rpd.envs.robots import Robot
from rpd.envs.specs import ActionSpec


@dataclass(frozen=True)
class RequestedMotion:
    """Motion of one deployment."""

    steps: dict[str, tuple[float, float]]
    """Lowest and highest requested value per control step, m or degrees, by action dimension; without the gripper."""
    held_back: dict[int, float]
    """Share of the commands in which limits changed a joint's requested position, by number of the joint, from 1."""
    clamps: dict[str, float]
    """Share of the commands that each limit changed."""
    near: Counter[tuple[str, str]]
    """Number of commands that would have brought two parts too near each other, by their names."""
    path: tuple[Array, Array] | None
    """Lowest and highest commanded position [3] of the tool center point, m; None without commands."""


def requested_motion(ticks: Sequence[dict[str, Any]], action: ActionSpec, robot: Robot) -> RequestedMotion:
    """Summarize the tick frames of a recording.

    Args:
        ticks: frames with ``raw`` and ``who`` where the policy or an operator answered, and ``wanted``, ``command``, ``clamps``
            and ``near`` where the robot was commanded.
        action: actions of the policy.
        robot: the arm.
    """
    answers = [tick["raw"] for tick in ticks if "raw" in tick and tick.get("who") != OPERATOR]
    raw = np.array(answers).reshape(-1, len(action.names))
    scaled = raw * np.array(action.scale)
    steps = {}
    for i, (name, unit, discrete) in enumerate(zip(action.names, action.units, action.discrete, strict=True)):
        if not discrete and len(raw):
            factor = math.degrees(1) if unit == "rad" else 1.0
            steps[name] = (factor * float(scaled[:, i].min()), factor * float(scaled[:, i].max()))
    commanded = [tick for tick in ticks if "command" in tick]
    if not commanded:
        return RequestedMotion(steps, {}, {}, Counter(), None)
    wanted, command = (np.array([tick[key] for tick in commanded]) for key in ("wanted", "command"))
    share = (np.abs(wanted - command) > EPSILON).mean(0)
    held_back = {joint: float(part) for joint, part in enumerate(share, 1) if part > 0}
    tool = Arm(robot).forward(command)[0]
    names = Counter(name for tick in commanded for name in tick["clamps"])
    clamps = {name: count / len(commanded) for name, count in names.most_common()}
    near = Counter(tuple(tick["near"]) for tick in commanded if tick.get("near"))
    return RequestedMotion(steps, held_back, clamps, near, (tool.min(0), tool.max(0)))


def describe(motion: RequestedMotion, action: ActionSpec) -> dict[str, str]:
    """Format a motion as lines by label."""
    units = dict(zip(action.names, action.units, strict=True))
    lines = {}
    if motion.steps:
        lines["steps asked for"] = ", ".join(
            f"{name} {1000 * low:.0f} to {1000 * high:.0f} mm" if units[name] == "m" else f"{name} {low:.1f}° to {high:.1f}°"
            for name, (low, high) in motion.steps.items()
        )
    if motion.held_back:
        worst = sorted(motion.held_back.items(), key=lambda item: -item[1])
        lines["joints held back"] = ", ".join(f"{joint} in {100 * share:.0f} %" for joint, share in worst)
    if motion.clamps:
        lines["limits"] = ", ".join(f"{name} {100 * share:.1f} %" for name, share in motion.clamps.items())
    if motion.near:
        lines["too near"] = ", ".join(f"{part} to {other} ({n})" for (part, other), n in motion.near.most_common(4))
    if motion.path is not None:
        ranges = zip("xyz", *motion.path, strict=True)
        lines["tool commanded"] = ", ".join(f"{axis} {low:.3f} to {high:.3f} m" for axis, low, high in ranges)
    return lines
