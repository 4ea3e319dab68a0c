"""Step: zero and direction of each joint, by angles that a person reads and small motions that a person confirms."""

from __future__ import annotations

from typing import Any

import numpy as np

from rpd.deploy.commissioning import directions
from rpd.deploy.commissioning.console import StepFailed, choose, confirm_motion, number
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.config import RobotConfig
from rpd.deploy.slow_motion import Trace
from rpd.envs.control.arm import Arm, Array
from rpd.envs.control.arm_limits import ArmLimits
from rpd.envs.robots import ROBOTS

ANGLE = 0.1
"""Motion of each joint, rad."""
FOLLOWS = 0.03
"""Largest distance of a joint from its command after the motion, rad."""
TRUE = 0.02
"""Largest difference of a measured from a true angle that is left, rad."""
MOST_LAG = 0.5
"""Longest delay that is looked for, s."""


def check_joints(walk: Walk) -> str:
    """Check the zero and the direction of each joint; correct them for drivers with ``offset`` and ``sign``."""
    if "offset" in walk.station.config.connection:
        _zeros(walk)
    names, lags = ROBOTS[walk.station.config.kinematics].joints, []
    for joint in range(len(names)):
        lags.append(_direction(walk, joint, names[joint]))
    return f"{len(names)} joints move as the robot file describes, {1000 * float(np.median(lags)):.0f} ms behind their commands"


def with_zero(config: RobotConfig, joint: int, measured: float, true: float) -> RobotConfig:
    """Correct the offset of a joint, see `rpd.deploy.robots.lerobot`: joint = sign (motor - offset).

    Args:
        config: config of the robot.
        joint: its number, from 0.
        measured: angle with the present offset, degrees.
        true: angle that it is, degrees.
    """
    offset = list(config.connection["offset"])
    offset[joint] += config.connection["sign"][joint] * (measured - true)
    return _connected_with(config, offset=offset)


def with_other_sign(config: RobotConfig, joint: int, measured: float) -> RobotConfig:
    """Reverse a joint, such that its present angle stays.

    Args:
        config: config of the robot.
        joint: its number, from 0.
        measured: present angle, degrees.
    """
    offset, sign = list(config.connection["offset"]), list(config.connection["sign"])
    motor = sign[joint] * measured + offset[joint]
    sign[joint] = -sign[joint]
    offset[joint] = motor - sign[joint] * measured
    return _connected_with(config, offset=offset, sign=sign)


def lag(trace: Trace, joint: int) -> float:
    """Delay of a joint behind its commands, s: the one with the smallest difference of the two curves.

    Args:
        trace: a motion of the joint.
        joint: its number, from 0.
    """
    times = np.array(trace.times)
    commanded, measured = (np.array(values)[:, joint] for values in (trace.commanded, trace.measured))
    delays = np.arange(0.0, MOST_LAG, 0.002)
    errors = [np.square(np.interp(times - delay, times, commanded) - measured).sum() for delay in delays]
    return float(delays[int(np.argmin(errors))])


def _zeros(walk: Walk) -> None:
    """Ask for the true angle of each joint, and correct the offsets."""
    station, console = walk.station, walk.console
    names = ROBOTS[station.config.kinematics].joints
    console.show("Angles: support the arm in a posture whose joint angles you know, e.g. by a protractor.")
    with station.connected() as robot:
        measured = np.degrees(robot.read().joints)
    for joint, name in enumerate(names):
        true = number(console, f"{name} is at {measured[joint]:.1f}°: its true angle in degrees?", float(measured[joint]))
        if abs(true - measured[joint]) > np.degrees(TRUE):
            station.config = with_zero(station.config, joint, float(measured[joint]), true)
            console.show(f"connection.offset of {name}: {station.config.connection['offset'][joint]:.2f}°")


def _direction(walk: Walk, joint: int, name: str) -> float:
    """Move a joint, and ask for its direction; returns its delay, s."""
    station, console = walk.station, walk.console
    arm, limits = Arm(ROBOTS[station.config.kinematics]), station.config.safety_limits()
    with station.connected() as robot:
        start = robot.read().joints
    goal = _goal(start, joint, arm, limits)
    seen = directions.of_motion(arm, start, goal)
    confirm_motion(console, f"{name} turns by {np.degrees(ANGLE):.0f}° and back: {seen}.")
    trace = _move(walk, joint, goal[joint] - start[joint])
    answer = choose(console, f"Was it so: {seen}?", {"yes": "", "opposite": "", "no": "another motion, or none"})
    if answer == "no":
        raise StepFailed(f"{name} does not move as described: check the order of the joints and the kinematics of the file")
    if answer == "opposite":
        if "sign" not in station.config.connection:
            raise StepFailed(
                f"{name} turns the other way, and driver {station.config.driver} has no sign: the kinematics differ"
            )
        measured = float(np.degrees(trace.measured[-1][joint]))
        station.config = with_other_sign(station.config, joint, measured)
        console.show(f"connection.sign of {name}: {station.config.connection['sign'][joint]:g}; once more:")
        return _direction(walk, joint, name)
    return lag(trace, joint)


def _goal(start: Array, joint: int, arm: Arm, limits: ArmLimits) -> Array:
    """Posture with one joint turned: in its positive direction, unless only the negative one stays within the limits."""
    goals = np.repeat(start[None], 2, axis=0)
    goals[:, joint] += (ANGLE, -ANGLE)
    tool, (low, high) = arm.forward(goals)[0], limits.box
    inside = ((tool >= low) & (tool <= high)).all(axis=1)
    inside &= (goals[:, joint] >= limits.lower[joint]) & (goals[:, joint] <= limits.upper[joint])
    return goals[1] if inside[1] and not inside[0] else goals[0]


def _move(walk: Walk, joint: int, turn: float) -> Trace:
    """Turn a joint and return; returns the trace of both motions.

    Raises:
        StepFailed: it does not follow.
    """
    with walk.station.moving() as (_, motion):
        start = motion.posture
        goal = start.copy()
        goal[joint] += turn
        there = motion.to(goal)
        off = np.abs(there.measured[-1] - goal)
        back = motion.to(start)
    if off.max() > FOLLOWS:
        raise StepFailed(
            f"joint {off.argmax() + 1} is {off.max():.3f} rad from its command, after a motion of joint {joint + 1}"
        )
    return Trace(*(one + other for one, other in zip(vars(there).values(), vars(back).values(), strict=True)))


def _connected_with(config: RobotConfig, **changes: Any) -> RobotConfig:
    return config.model_copy(update={"connection": {**config.connection, **changes}})
