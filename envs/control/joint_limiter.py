"""Joint limits of commands: position, velocity, and acceleration, such that every joint can always brake before its end.

Pure functions of N arms with n joints, shared by the simulation and the safety layer of a deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rpd.envs.control.kinematics import Array

EPSILON = 1e-9  # tolerance for rounding, rad and rad/s


@dataclass(frozen=True)
class JointLimits:
    """Limits of an arm with n joints; all finite."""

    lower: Array
    """[n] rad."""
    upper: Array
    """[n] rad."""
    velocity: Array
    """[n] rad/s."""
    acceleration: Array
    """[n] rad/s^2."""


class Limited(NamedTuple):
    """Velocity of the next period, and which limits changed it."""

    velocity: Array
    """[N, n] rad/s."""
    joint: Array
    """[N] whether a wanted position is outside the range of a joint."""
    speed: Array
    """[N] whether a velocity limit changed it."""
    acceleration: Array
    """[N] whether an acceleration limit, or the braking distance to the end of a joint, changed it."""


def limit(wanted: Array, position: Array, velocity: Array, limits: JointLimits, period: float, speed: float = 1.0) -> Limited:
    """Limit the motion from commanded to wanted positions.

    Args:
        wanted: [N, n] joint positions, rad.
        position: [N, n] positions of the previous command, rad.
        velocity: [N, n] velocities of the previous command, rad/s.
        limits: limits of the arm.
        period: time between commands, s.
        speed: fraction of the velocity limits, not decreasing between commands; for a speed ramp.
    """
    low, high = velocity_bounds(position, velocity, limits, period, speed)
    rate = (np.clip(wanted, limits.lower, limits.upper) - position) / period
    outside = ((wanted < limits.lower - EPSILON) | (wanted > limits.upper + EPSILON)).any(axis=1)
    over = np.maximum((np.abs(rate) / (speed * limits.velocity)).max(axis=1, keepdims=True), 1.0)
    rate = rate / over  # same direction, lower speed
    bounded = np.minimum(np.maximum(rate, low), high)
    changed = (np.abs(bounded - rate) > EPSILON).any(axis=1)
    return Limited(bounded, outside, over[:, 0] > 1 + EPSILON, changed)


def velocity_bounds(
    position: Array, velocity: Array, limits: JointLimits, period: float, speed: float = 1.0
) -> tuple[Array, Array]:
    """Lowest and highest velocity [N, n] that respect every joint limit, now and during braking.

    A joint at distance d from its limit may move with velocity v if it can still brake: v T + v^2 / 2a <= d, an invariant under
    braking with a in every period T. See `limit` for the arguments.
    """
    a, change, most = limits.acceleration, limits.acceleration * period, speed * limits.velocity
    up = _brakeable(limits.upper - position, a, period)
    down = _brakeable(position - limits.lower, a, period)
    low = np.maximum(np.maximum(-most, velocity - change), -down)
    high = np.minimum(np.minimum(most, velocity + change), up)
    return np.minimum(low, high), high  # equal up to rounding if there is no choice


def slower(velocity: Array, limits: JointLimits, period: float) -> Array:
    """Velocities [N, n] after one period of braking at the acceleration limits."""
    return np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * period, 0)


def moved(position: Array, velocity: Array, limits: JointLimits, period: float) -> Array:
    """Positions [N, n] after one period of motion."""
    return np.clip(position + velocity * period, limits.lower, limits.upper)  # clips rounding errors only


def _brakeable(distance: Array, acceleration: Array, period: float) -> Array:
    """Highest v [N, n] with v T + v^2 / 2a <= distance."""
    return acceleration * (np.sqrt(period**2 + 2 * np.maximum(distance, 0) / acceleration) - period)
