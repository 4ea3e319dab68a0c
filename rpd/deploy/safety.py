"""Safety layer between a policy and a driver: pure functions that keep commands within limits.

Rule of `filter_command`: a command is sent only if the arm can brake to rest after it, at its acceleration limits, without
violating a limit on the way; otherwise the next step of the braking trajectory of the previous command is sent. Thus for any
sequence of requests, ending at any time, the arm can come to rest within its limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rpd.envs.control import joint_limiter
from rpd.envs.control.joint_limiter import EPSILON, JointLimits

Array = NDArray[np.floating]
Forward = Callable[[Array], Array]
"""Joint positions [K, n], rad -> positions of the tool centre point [K, 3], m."""

SCALES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Fractions of the requested motion beyond braking that are tried if the full motion violates a limit of the hand."""


class Unsafe(Exception):
    """No command may be sent; the message states the reason."""


@dataclass(frozen=True)
class Limits(JointLimits):
    """Limits of an arm and its tool; all finite."""

    box: tuple[Array, Array]
    """Lowest and highest corner [3] of the workspace of the tool center point, m."""
    tcp_speed: float
    """Maximum speed of the tool center point, m/s."""


@dataclass(frozen=True)
class JointCommand:
    """Commanded joint state."""

    position: Array
    """[n] rad."""
    velocity: Array
    """[n] rad/s."""


@dataclass(frozen=True)
class FilteredCommand:
    """A command within limits."""

    command: JointCommand
    clamps: tuple[str, ...]
    """Limits that changed it, of ``joint``, ``velocity``, ``acceleration``, ``workspace``, ``tcp_speed``."""


def initial_command(joints: Array, limits: Limits, forward: Forward) -> JointCommand:
    """Initial command: the measured posture, at rest.

    Args:
        joints: [n] measured, rad.
        limits: limits of the arm.
        forward: kinematics of the arm.

    Raises:
        Unsafe: the arm is outside its limits; names the joint, or the position of the hand.
    """
    if not np.isfinite(joints).all():
        raise Unsafe("the robot reports joint positions that are not numbers")
    for i in np.flatnonzero((joints < limits.lower) | (joints > limits.upper))[:1]:
        raise Unsafe(
            f"joint {i + 1} is at {joints[i]:.3f} rad, outside of its limits {limits.lower[i]:g} to {limits.upper[i]:g}: "
            "move it by hand, or correct limits.position"
        )
    tcp, (low, high) = forward(joints[None])[0], limits.box
    if ((tcp < low) | (tcp > high)).any():
        place = ", ".join(f"{x:.3f}" for x in tcp)
        raise Unsafe(f"the hand is at ({place}) m, outside of the workspace: move it by hand, or correct limits.workspace")
    return JointCommand(joints.astype(np.float64), np.zeros(len(joints)))


def filter_command(
    wanted: Array, before: JointCommand, limits: Limits, forward: Forward, period: float, speed: float = 1.0
) -> FilteredCommand:
    """Filter wanted joint positions to a command within limits.

    Args:
        wanted: [n] joint positions, rad.
        before: previous command, from `initial_command` or this function, at the same period.
        limits: limits of the arm.
        forward: kinematics of the arm.
        period: time between commands, s.
        speed: fraction of the velocity limits, not decreasing between commands; for a speed ramp.

    Raises:
        Unsafe: `wanted` is not finite.
    """
    if not np.isfinite(wanted).all():
        raise Unsafe("the commanded joint positions are not finite numbers")
    limited = joint_limiter.limit(wanted[None], before.position[None], before.velocity[None], limits, period, speed)
    changed = zip(("joint", "velocity", "acceleration"), limited[1:], strict=True)
    clamps = [name for name, arms in changed if arms[0]]
    bounded, braked = limited.velocity[0], joint_limiter.slower(before.velocity, limits, period)
    for scale in SCALES:
        command = _move(before.position, braked + scale * (bounded - braked), limits, period)
        violated = _violations(before, command, limits, forward, period)
        if not violated:
            return FilteredCommand(command, tuple(clamps))
        clamps += [name for name in violated if name not in clamps]
    return FilteredCommand(_move(before.position, braked, limits, period), tuple(clamps))


def braking(command: JointCommand, limits: Limits, period: float) -> list[JointCommand]:
    """Commands that bring the arm to rest, at its acceleration limits."""
    count = math.ceil(np.max(np.abs(command.velocity) / (limits.acceleration * period), initial=0.0) - EPSILON)
    way = []
    for _ in range(count):
        command = _move(command.position, joint_limiter.slower(command.velocity, limits, period), limits, period)
        way.append(command)
    return way


def stop_time(limits: Limits) -> float:
    """Time to rest from maximum speed, braking as in `braking`, s."""
    return float(np.max(limits.velocity / limits.acceleration))


def smooth(action: Array, before: Array | None, share: float) -> Array:
    """Exponential average of actions [A]: `share` in [0, 1) is the weight of the previous one."""
    return action if before is None else share * before + (1 - share) * action


def gripper_with_hysteresis(value: float, opened: bool, hysteresis: float) -> bool:
    """Whether to open the gripper: it switches only if a value in [-1, 1] passes zero by `hysteresis`."""
    return value > (-hysteresis if opened else hysteresis)


def ramp(elapsed: float, duration: float, start: float = 0.1) -> float:
    """Fraction of full speed, `elapsed` seconds after the start: from `start` to 1 within `duration` seconds."""
    return 1.0 if elapsed >= duration else start + (1 - start) * elapsed / duration


def _move(position: Array, velocity: Array, limits: Limits, period: float) -> JointCommand:
    return JointCommand(joint_limiter.moved(position, velocity, limits, period), velocity)


def _violations(before: JointCommand, command: JointCommand, limits: Limits, forward: Forward, period: float) -> list[str]:
    """Limits of the hand that a command, or braking after it, violates."""
    way = [before, command, *braking(command, limits, period)]
    tcp = forward(np.stack([m.position for m in way]))
    (low, high), steps = limits.box, np.linalg.norm(np.diff(tcp, axis=0), axis=1)
    violated = []
    if ((tcp[1:] < low) | (tcp[1:] > high)).any():
        violated.append("workspace")
    if (steps > limits.tcp_speed * period).any():
        violated.append("tcp_speed")
    return violated
