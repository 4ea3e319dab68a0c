"""Safety layer between a policy and a driver: pure functions that keep commands within limits.

Rule of `filter_command`: a command is sent only if the arm can brake to rest after it, at its acceleration limits, without
violating a limit on the way; otherwise the next step of the braking trajectory of the previous command is sent. Thus for any
sequence of requests, ending at any time, the arm can come to rest within its limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rpd.deploy.collision import Near
from rpd.envs.control import joint_limiter
from rpd.envs.control.arm_limits import ArmLimits
from rpd.envs.control.joint_limiter import EPSILON

Array = NDArray[np.floating]

LEAST = 0.1
"""Fraction of the requested motion beyond braking that is tried first if the full motion violates a limit of tool or links."""
INSTANT = 1e-3  # s, of measured motion from which the speed of the tool follows


class Unsafe(Exception):
    """No command may be sent; the message states the reason."""


class Body(Protocol):
    """Geometry of an arm; see `rpd.deploy.collision.CollisionChecker`."""

    def tool(self, joints: Array) -> tuple[Array, Array]:
        """Positions of the tool center point [K, 3], m, and unit vectors [K, 3] out of the tool, of postures [K, n], rad."""

    def too_near(self, joints: Array) -> Near | None:
        """Nearest pair of parts in posture [n], rad, if it is nearer than allowed."""

    def collision(self, way: Array) -> Near | None:
        """First pair of parts that comes nearer than allowed along postures [K, n], rad, after the first."""


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
    """Limits that changed it: ``joint``, ``velocity``, ``acceleration``, ``workspace``, ``tcp_speed``, ``tilt`` or
    one of the distances, ``collision``."""
    near: Near | None = None
    """Parts that would have come too near each other; with ``collision``."""


def initial_command(joints: Array, velocities: Array, limits: ArmLimits, body: Body) -> JointCommand:
    """Initial command: the measured posture, at rest.

    Args:
        joints: [n] measured, rad.
        velocities: [n] measured, rad/s.
        limits: limits of the arm.
        body: geometry of the arm.

    Raises:
        Unsafe: the arm is outside its limits; names the joint, the position, tilt or speed of the tool, or the parts that are
            too near each other.
    """
    if not (np.isfinite(joints).all() and np.isfinite(velocities).all()):
        raise Unsafe("the robot reports joint positions or velocities that are not numbers")
    for i in np.flatnonzero((joints < limits.lower) | (joints > limits.upper))[:1]:
        raise Unsafe(
            f"joint {i + 1} is at {joints[i]:.3f} rad, outside of its limits {limits.lower[i]:g} to {limits.upper[i]:g}: "
            "move it by hand, or correct limits.position"
        )
    positions, axes = body.tool(np.stack((joints, joints + INSTANT * velocities)))
    tcp, (low, high) = positions[0], limits.box
    if ((tcp < low) | (tcp > high)).any():
        place = ", ".join(f"{x:.3f}" for x in tcp)
        raise Unsafe(f"the tool is at ({place}) m, outside of the workspace: move it by hand, or correct limits.workspace")
    if (tilt := math.acos(max(-1.0, min(1.0, -axes[0, 2])))) > limits.tilt:
        raise Unsafe(
            f"the tool points {tilt:.3f} rad away from straight down, and {limits.tilt:g} are allowed: "
            "move it by hand, or correct limits.tilt"
        )
    if (speed := np.linalg.norm(positions[1] - tcp) / INSTANT) > limits.tcp_speed:
        raise Unsafe(f"the tool moves at {speed:.3f} m/s, and {limits.tcp_speed:g} are allowed: let the arm come to rest")
    if (near := body.too_near(joints)) is not None:
        raise Unsafe(f"{near}: move it by hand, or correct limits.clearance or limits.boxes")
    return JointCommand(joints.astype(np.float64), np.zeros(len(joints)))


def filter_command(
    wanted: Array,
    before: JointCommand,
    limits: ArmLimits,
    body: Body,
    period: float,
    speed: float = 1.0,
    ticks: int = 1,
) -> FilteredCommand:
    """Filter wanted joint positions to a command within limits.

    Args:
        wanted: [n] joint positions, rad, where the arm is to be after `ticks` periods.
        before: previous command, from `initial_command`, `after_gap` or this function, at the same period.
        limits: limits of the arm.
        body: geometry of the arm.
        period: time between commands, s.
        speed: fraction of the velocity limits, not decreasing between commands; for a speed ramp.
        ticks: commands until other positions are expected, including this one.

    Raises:
        Unsafe: `wanted` is not finite.
    """
    if not np.isfinite(wanted).all():
        raise Unsafe("the commanded joint positions are not finite numbers")
    now = before.position[None], before.velocity[None]
    limited = joint_limiter.limit(wanted[None], *now, limits, period, speed, ticks)
    changed = zip(("joint", "velocity", "acceleration"), limited[1:4], strict=True)
    clamps = [name for name, arms in changed if arms[0]]
    bounded, braked = limited.velocity[0], joint_limiter.slower(before.velocity, limits, period)
    near: Near | None = None

    def attempt(scale: float) -> JointCommand | None:
        nonlocal clamps, near
        command = _move(before.position, braked + scale * (bounded - braked), limits, period)
        violated = _violations(before.position, command, limits, body, period)
        clamps += [name for name in violated if name not in clamps]
        near = violated.get("collision") or near
        return None if violated else command

    command = attempt(1.0)
    if command is None and (slow := attempt(LEAST)) is not None:
        half = attempt(0.5)
        command = attempt(0.25 if half is None else 0.75) or half or slow
    return FilteredCommand(command or _move(before.position, braked, limits, period), tuple(clamps), near)


def after_gap(
    before: JointCommand, velocities: Array, missed: int, limits: ArmLimits, body: Body, period: float
) -> JointCommand:
    """State to continue from after periods without a command.

    The arm continued toward the last command, or came to rest there. Its joints are as fast as measured, but no faster than
    commanded, and no slower than after braking at the acceleration limits for the time that has passed, so that the stream of
    commands never brakes harder. If the arm cannot brake within its limits from there, the state is that of the last
    command, from which it can.

    Args:
        before: previous command.
        velocities: [n] measured, rad/s.
        missed: number of periods without a command.
        limits: limits of the arm.
        body: geometry of the arm.
        period: time between commands, s.
    """
    direction, fastest = np.sign(before.velocity), np.abs(before.velocity)
    slowest = np.abs(joint_limiter.slower(before.velocity, limits, missed * period))
    now = JointCommand(before.position, direction * np.clip(direction * velocities, slowest, fastest))
    return before if _violations(before.position, now, limits, body, period) else now


def braking(command: JointCommand, limits: ArmLimits, period: float) -> Array:
    """Postures [K, n], rad, in which the arm comes to rest at its acceleration limits, one per period; the last is at rest."""
    change = limits.acceleration * period
    speeds = np.abs(command.velocity)
    count = math.ceil((speeds / change).max() - EPSILON)
    steps = np.maximum(speeds - np.arange(1, count + 1)[:, None] * change, 0)
    way = command.position + period * np.sign(command.velocity) * np.cumsum(steps, axis=0)
    return np.minimum(np.maximum(way, limits.lower), limits.upper)  # for rounding errors only


def stop_time(limits: ArmLimits) -> float:
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


def _move(position: Array, velocity: Array, limits: ArmLimits, period: float) -> JointCommand:
    return JointCommand(joint_limiter.moved(position, velocity, limits, period), velocity)


def _violations(start: Array, command: JointCommand, limits: ArmLimits, body: Body, period: float) -> dict[str, Near | None]:
    """Limits of the tool and the links that the way from posture `start` to a command, or the braking after it, violates."""
    way = np.concatenate((start[None], command.position[None], braking(command, limits, period)))
    tcp, axes = body.tool(way)
    (low, high), steps = limits.box, tcp[1:] - tcp[:-1]
    violated: dict[str, Near | None] = {}
    if ((tcp[1:] < low) | (tcp[1:] > high)).any():
        violated["workspace"] = None
    if ((steps * steps).sum(axis=1) > (limits.tcp_speed * period) ** 2).any():
        violated["tcp_speed"] = None
    if (-axes[1:, 2] < math.cos(limits.tilt) - EPSILON).any():
        violated["tilt"] = None
    if not violated and (near := body.collision(way)) is not None:
        violated["collision"] = near
    return violated
