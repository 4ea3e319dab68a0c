"""Steps: connection of the robot, and the rate and the age of its measurements."""

from __future__ import annotations

import time

import numpy as np

from rpd.deploy import safety
from rpd.deploy.collision import CollisionChecker
from rpd.deploy.commissioning.console import StepFailed, confirmed
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.monitor import check_finite
from rpd.deploy.robots.base import RobotDriver, RobotState
from rpd.deploy.robots.fits import check_fits
from rpd.deploy.summary import quantiles
from rpd.envs.control.arm import Arm
from rpd.envs.robots import ROBOTS

WATCHED = 3.0
"""Time for which measurements are watched, s."""


def connect(walk: Walk) -> str:
    """Connect, and compare the posture with what a person sees."""
    station, console = walk.station, walk.console
    with station.connected() as robot:
        check_fits(robot, station.config)
        state = robot.read()
    if state.stopped:
        raise StepFailed(f"the robot has stopped by itself: {state.stopped}: release it, and run again")
    check_finite(state)
    description, limits = ROBOTS[station.config.kinematics], station.config.limits
    arm, body = Arm(description), CollisionChecker(description, limits.clearance, limits.boxes)
    degrees = ", ".join(f"{name} {value:.1f}°" for name, value in zip(robot.spec.joints, np.degrees(state.joints), strict=True))
    x, y, z = arm.forward(state.joints[None])[0][0]
    console.show(f"joints: {degrees}")
    side = "left" if y >= 0 else "right"
    console.show(
        f"tool center point: {100 * x:.1f} cm before the base, {100 * abs(y):.1f} cm to its {side}, {100 * z:.1f} cm up"
    )
    console.show(f"gripper: {100 * state.gripper:.0f} % open; force or current: {_effort(robot, state)}")
    try:
        safety.initial_command(state.joints, state.velocities, station.config.safety_limits(), body)
    except safety.Unsafe as unsafe:
        console.show(f"not a posture from which it may move: {unsafe}")
    if not confirmed(console, "Is the tool about there, to 2 cm?") and "offset" not in station.config.connection:
        raise StepFailed("the tool is elsewhere: kinematics, base frame or tool of the robot file are of another robot")
    return f"{robot.spec.name}, {len(robot.spec.joints)} joints"


def rates(walk: Walk) -> str:
    """Measure how often and how late measurements come."""
    station, console = walk.station, walk.console
    with station.connected() as robot:
        spent, ages, times = _watch(robot, station.config.rate)
    fresh = len(set(times)) / WATCHED
    console.show(f"a reading takes {quantiles(spent)}")
    console.show(f"its age is {quantiles(ages)}")
    console.show(f"{fresh:.0f} new measurements per second, {station.config.rate:g} commands per second")
    limit, oldest = station.config.watchdog.observation_age, float(np.quantile(ages, 0.99))
    if oldest > limit:
        raise StepFailed(
            f"measurements are {1000 * oldest:.0f} ms old (99 %), and watchdog.observation_age is {1000 * limit:.0f} ms: "
            "look for the network, or another program on this computer"
        )
    return f"{fresh:.0f} measurements per second, {1000 * float(np.median(ages)):.1f} ms old (median)"


def _watch(robot: RobotDriver, rate: float) -> tuple[list[float], list[float], list[float]]:
    """Durations of readings, s, ages and times of the measurements."""
    spent, ages, times = list[float](), list[float](), list[float]()
    until = time.monotonic() + WATCHED
    while (began := time.monotonic()) < until:
        state = robot.read()
        now = time.monotonic()
        spent.append(now - began)
        ages.append(now - state.time)
        times.append(state.time)
        time.sleep(max(0.0, began + 1 / rate - time.monotonic()))
    return spent, ages, times


def _effort(robot: RobotDriver, state: RobotState) -> str:
    return "not measured" if state.effort is None else f"{state.effort:.1f} {robot.spec.effort}"
