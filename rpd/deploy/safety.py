"""What stands between a policy and a driver: pure functions that no command outside of the limits passes.

The rule behind `admit`: a command is sent only if from it the arm can still brake to rest, at its acceleration limits,
without any point on the way breaking a limit; else it takes the next step of the braking that was found possible one
command before. So whatever is asked for, and whenever the asking ends, there is a way to rest within the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Forward = Callable[[Array], Array]
"""Joint positions [K, n], rad -> positions of the tool centre point [K, 3], m."""

SCALES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""How much of what is asked for beyond braking is tried, where all of it would break a limit of the hand."""
EPSILON = 1e-9  # below which a velocity, rad/s, is rest, and an excess is rounding


class Unsafe(Exception):
    """Nothing may be sent any more; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What an arm with n joints must not exceed. Every one is a finite number."""

    lower: Array
    """[n] rad."""
    upper: Array
    """[n] rad."""
    velocity: Array
    """[n] rad/s."""
    acceleration: Array
    """[n] rad/s^2."""
    box: tuple[Array, Array]
    """Lowest and highest corner [3] of where the tool centre point may be, m."""
    tcp_speed: float
    """Of the tool centre point, m/s."""


@dataclass(frozen=True)
class Motion:
    """What was commanded last."""

    position: Array
    """[n] rad."""
    velocity: Array
    """[n] rad/s."""


@dataclass(frozen=True)
class Verdict:
    """What may be sent."""

    motion: Motion
    clamps: tuple[str, ...]
    """The limits that changed it: of ``joint``, ``velocity``, ``acceleration``, ``workspace``, ``tcp_speed``."""


def at_rest(joints: Array, limits: Limits, forward: Forward) -> Motion:
    """Begin where the arm is.

    Args:
        joints: [n] rad, as measured.
        limits: of the arm.
        forward: its kinematics.

    Raises:
        Unsafe: it is outside of its limits: naming the joint, or the place of the hand.
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
    return Motion(joints.astype(np.float64), np.zeros(len(joints)))


def admit(wanted: Array, before: Motion, limits: Limits, forward: Forward, period: float, speed: float = 1.0) -> Verdict:
    """Turn what is wanted into what may be commanded.

    Args:
        wanted: [n] joint positions, rad.
        before: the command before; from `at_rest`, or of the last verdict, at the same period.
        limits: of the arm.
        forward: its kinematics.
        period: between commands, s.
        speed: fraction of the velocity limits, not falling from one command to the next; for a slow start.

    Raises:
        Unsafe: what is wanted is not finite.
    """
    if not np.isfinite(wanted).all():
        raise Unsafe("the commanded joint positions are not finite numbers")
    clamps: list[str] = []
    low, high = velocity_bounds(before, limits, period, speed)
    rate = (np.clip(wanted, limits.lower, limits.upper) - before.position) / period
    if ((wanted < limits.lower - EPSILON) | (wanted > limits.upper + EPSILON)).any():
        clamps.append("joint")
    over = np.max(np.abs(rate) / (speed * limits.velocity), initial=1.0)
    if over > 1 + EPSILON:
        clamps.append("velocity")
        rate = rate / over  # the same way, slower
    bounded = np.clip(rate, low, high)
    if (np.abs(bounded - rate) > EPSILON).any():
        clamps.append("acceleration")
    braked = _slower(before.velocity, limits, period)
    for scale in SCALES:
        motion = _move(before.position, braked + scale * (bounded - braked), limits, period)
        broken = _broken(before, motion, limits, forward, period)
        if not broken:
            return Verdict(motion, tuple(clamps))
        clamps += [name for name in broken if name not in clamps]
    return Verdict(_move(before.position, braked, limits, period), tuple(clamps))


def velocity_bounds(before: Motion, limits: Limits, period: float, speed: float = 1.0) -> tuple[Array, Array]:
    """The lowest and highest velocity [n] that respect every joint limit, now and while braking afterwards.

    A joint at distance d of its limit may move on with v if it can then brake: v T + v^2 / 2a <= d, which is kept by braking
    with a at every period T.
    """
    a, change, most = limits.acceleration, limits.acceleration * period, speed * limits.velocity
    up = _brakeable(limits.upper - before.position, a, period)
    down = _brakeable(before.position - limits.lower, a, period)
    low = np.maximum(np.maximum(-most, before.velocity - change), -down)
    high = np.minimum(np.minimum(most, before.velocity + change), up)
    return np.minimum(low, high), high  # equal but for rounding where there is no choice


def braking(motion: Motion, limits: Limits, period: float) -> list[Motion]:
    """The commands that bring the arm to rest, at its acceleration limits."""
    count = math.ceil(np.max(np.abs(motion.velocity) / (limits.acceleration * period), initial=0.0) - EPSILON)
    way = []
    for _ in range(count):
        motion = _move(motion.position, _slower(motion.velocity, limits, period), limits, period)
        way.append(motion)
    return way


def stop_time(limits: Limits) -> float:
    """Seconds in which the arm comes to rest from its highest speed, braking as `braking` does."""
    return float(np.max(limits.velocity / limits.acceleration))


def smooth(action: Array, before: Array | None, share: float) -> Array:
    """An exponential average of actions [A]: `share` in [0, 1) of the one before, 0 does nothing."""
    return action if before is None else share * before + (1 - share) * action


def grip(value: float, opened: bool, hysteresis: float) -> bool:
    """Whether the gripper shall be open: it turns only where a value in [-1, 1] passes zero by `hysteresis`."""
    return value > (-hysteresis if opened else hysteresis)


def ramp(elapsed: float, duration: float, start: float = 0.1) -> float:
    """Fraction of full speed `elapsed` seconds after the first motion: from `start` to 1 in `duration` seconds."""
    return 1.0 if elapsed >= duration else start + (1 - start) * elapsed / duration


def _brakeable(distance: Array, acceleration: Array, period: float) -> Array:
    """The highest v [n] with v T + v^2 / 2a <= distance."""
    return acceleration * (np.sqrt(period**2 + 2 * np.maximum(distance, 0) / acceleration) - period)


def _slower(velocity: Array, limits: Limits, period: float) -> Array:
    return np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * period, 0)


def _move(position: Array, velocity: Array, limits: Limits, period: float) -> Motion:
    return Motion(np.clip(position + velocity * period, limits.lower, limits.upper), velocity)  # clips only what is rounding


def _broken(before: Motion, motion: Motion, limits: Limits, forward: Forward, period: float) -> list[str]:
    """The limits of the hand that a command, or braking after it, would break."""
    way = [before, motion, *braking(motion, limits, period)]
    tcp = forward(np.stack([m.position for m in way]))
    (low, high), steps = limits.box, np.linalg.norm(np.diff(tcp, axis=0), axis=1)
    broken = []
    if ((tcp[1:] < low) | (tcp[1:] > high)).any():
        broken.append("workspace")
    if (steps > limits.tcp_speed * period).any():
        broken.append("tcp_speed")
    return broken
