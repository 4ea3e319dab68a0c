"""Joint limits of commands: position, velocity, and acceleration, such that every joint can always brake before its end.

Pure functions of N arms with n joints, shared by the simulation and the safety layer of a deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpd.envs.control.kinematics import Array

Mask = NDArray[np.bool_]
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
    joint: Mask
    """[N] whether a wanted position is outside the range of a joint."""
    speed: Mask
    """[N] whether a velocity limit changed it."""
    acceleration: Mask
    """[N] whether an acceleration limit changed it, or braking in time for the end of a joint."""
    braking: Mask
    """[N] whether it is lower so that the arm can come to rest at the wanted positions."""


def limit(
    wanted: Array,
    position: Array,
    velocity: Array,
    limits: JointLimits,
    period: float,
    speed: float = 1.0,
    ticks: int = 1,
) -> Limited:
    """Limit the motion from commanded to wanted positions.

    From rest, the motion is straight in the space of the joints. It is as fast as the limits allow, such that the arm can come
    to rest at the wanted positions: an arm that brakes only when it has passed them swings around them.

    Args:
        wanted: [N, n] joint positions, rad, where the arm is to be after `ticks` periods.
        position: [N, n] positions of the previous command, rad.
        velocity: [N, n] velocities of the previous command, rad/s.
        limits: limits of the arm.
        period: time between commands, s.
        speed: fraction of the velocity limits, not decreasing between commands; for a speed ramp.
        ticks: commands until other positions are expected, including this one; braking begins after them.
    """
    low, high = velocity_bounds(position, velocity, limits, period, speed)
    outside: Mask = np.any((wanted < limits.lower - EPSILON) | (wanted > limits.upper + EPSILON), axis=1)
    way = np.clip(wanted, limits.lower, limits.upper) - position
    span = ticks * period
    rate, size = way / span, np.maximum(np.abs(way), EPSILON)
    fast = (speed * limits.velocity * span / size).min(axis=1)
    brakeable = (stoppable(size, limits.acceleration, period, ticks) * span / size).min(axis=1)
    rate = rate * np.minimum(np.minimum(fast, brakeable), 1.0)[:, None]  # same direction, lower speed
    # All joints change their velocities by the same fraction of what is wanted, so that the tool moves where it is wanted.
    change = rate - velocity
    share = np.minimum((limits.acceleration * period / np.maximum(np.abs(change), EPSILON)).min(axis=1), 1.0)
    bounded = np.minimum(np.maximum(velocity + share[:, None] * change, low), high)
    changed: Mask = (np.abs(bounded - rate) > EPSILON).any(axis=1)
    return Limited(bounded, outside, fast < 1 - EPSILON, changed, brakeable < np.minimum(fast, 1.0) - EPSILON)


def velocity_bounds(
    position: Array, velocity: Array, limits: JointLimits, period: float, speed: float = 1.0
) -> tuple[Array, Array]:
    """Lowest and highest velocity [N, n] that respect every joint limit, now and during braking; arguments as for `limit`."""
    a, change, most = limits.acceleration, limits.acceleration * period, speed * limits.velocity
    up = stoppable(np.maximum(limits.upper - position, 0), a, period)
    down = stoppable(np.maximum(position - limits.lower, 0), a, period)
    low = np.maximum(np.maximum(-most, velocity - change), -down)
    high = np.minimum(np.minimum(most, velocity + change), up)
    return np.minimum(low, high), high  # equal up to rounding if there is no choice


def stoppable(distance: Array, acceleration: Array, period: float, ticks: int = 1) -> Array:
    """Highest velocity [N, n], rad/s, from which a joint comes to rest within `distance` [N, n], rad.

    A joint that moves with v = (k + r) a T, 0 <= r < 1, for `ticks` h periods T, and then slows down by a T in every period,
    moves by a T^2 (k (k + 1) / 2 + k (h - 1) + r (k + h)) in all; this is its inverse. Braking keeps the relation.
    """
    step, held = acceleration * period**2, 2 * ticks - 1
    whole = np.floor((np.sqrt(held**2 + 8 * distance / step) - held) / 2)
    rest = distance - step * (whole * (whole + 1) / 2 + whole * (ticks - 1))
    return acceleration * period * whole + rest / (period * (whole + ticks))


def slower(velocity: Array, limits: JointLimits, period: float) -> Array:
    """Velocities [N, n] after one period of braking at the acceleration limits."""
    return np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * period, 0)


def moved(position: Array, velocity: Array, limits: JointLimits, period: float) -> Array:
    """Positions [N, n] after one period of motion."""
    return np.clip(position + velocity * period, limits.lower, limits.upper)  # clips rounding errors only
