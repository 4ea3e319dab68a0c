"""Mobile bases as data, and their common dynamics: first-order velocity tracking within limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rpd.envs.navigation.geometry import Array
from rpd.envs.specs import ActionSpec, Embodiment

CONTROL_HZ = 10.0  # COMPASS
DT = 1 / CONTROL_HZ

COMMAND = ActionSpec(
    names=("vx", "vy", "yaw_rate"),
    units=("m/s", "m/s", "rad/s"),
    scale=(1.0, 1.0, 1.5),
    discrete=(False, False, False),
)
"""Velocity command, the same for every base. x is forward, y left; each base clips it to its limits."""


@dataclass(frozen=True)
class Base:
    """A mobile base with a round footprint; its parameters define its kind.

    Attributes:
        name: registry name.
        radius: radius of the footprint, m.
        forward: maximum forward speed, m/s.
        backward: maximum backward speed, m/s.
        sideways: maximum lateral speed, m/s; 0: nonholonomic.
        yaw_rate: maximum yaw rate, rad/s.
        lag: time constant of the linear velocity, s.
        yaw_lag: time constant of the yaw rate, s.
        turning_radius: minimum turning radius, m; 0: turns in place.
        sway: standard deviation per step of the velocity at full speed, m/s, for legged gaits; zero at standstill.
        yaw_sway: standard deviation per step of the yaw rate at full speed, rad/s.
    """

    name: str
    radius: float
    forward: float
    backward: float
    sideways: float
    yaw_rate: float
    lag: float
    yaw_lag: float
    turning_radius: float = 0.0
    sway: float = 0.0
    yaw_sway: float = 0.0

    @property
    def low(self) -> Array:
        """[3] minimum velocity (vx, vy, yaw rate), m/s and rad/s."""
        return np.array([-self.backward, -self.sideways, -self.yaw_rate])

    @property
    def high(self) -> Array:
        """[3] maximum velocity (vx, vy, yaw rate), m/s and rad/s."""
        return np.array([self.forward, self.sideways, self.yaw_rate])

    def embodiment(self) -> Embodiment:
        """Descriptor of the base for a policy, in SI units."""
        numbers = {name: float(value) for name, value in vars(self).items() if name != "name"}
        return Embodiment(name=self.name, num_joints=0, descriptor=numbers)


BASES = {
    base.name: base
    for base in (
        Base("wheeled", radius=0.25, forward=1.0, backward=0.3, sideways=0.0, yaw_rate=1.5, lag=0.1, yaw_lag=0.1),
        Base("omni", radius=0.40, forward=0.8, backward=0.8, sideways=0.6, yaw_rate=1.0, lag=0.4, yaw_lag=0.4),
        Base(
            "car", radius=0.30, forward=1.0, backward=0.6, sideways=0.0, yaw_rate=1.5, lag=0.2, yaw_lag=0.2, turning_radius=0.7
        ),
        Base(
            "legged", radius=0.35, forward=0.6, backward=0.3, sideways=0.3, yaw_rate=0.8, lag=0.5, yaw_lag=0.5,
            sway=0.05, yaw_sway=0.15,
        ),
    )
}  # fmt: skip


def track(base: Base, twist: Array, command: Array, noise: Array) -> tuple[Array, Array]:
    """Track a velocity command for one control step.

    Args:
        base: the base.
        twist: [N, 3] velocity (vx, vy, yaw rate) in the base frame, m/s and rad/s.
        command: [N, 3] commanded velocity, in the same units, unclipped.
        noise: [N, 3] standard normal numbers.

    Returns:
        The velocity [N, 3] after the step, and the mean velocity [N, 3] during it.
    """
    wanted = np.clip(command, base.low, base.high)
    keep = np.exp(-DT / np.array([base.lag, base.lag, base.yaw_lag]))
    after: Array = wanted + (twist - wanted) * keep  # exact solution of dv/dt = (wanted - v) / lag
    gait = np.sqrt(((after / np.array([base.forward, max(base.sideways, base.forward), base.yaw_rate])) ** 2).sum(axis=1))
    slip = np.array([base.sway, base.sway if base.sideways else 0.0, base.yaw_sway])
    after = _steer(base, after + slip * np.minimum(gait, 1.0)[:, None] * noise)
    return after, _steer(base, (twist + after) / 2)


def _steer(base: Base, twist: Array) -> Array:
    """Limit the yaw rate of velocities [N, 3] to the minimum turning radius."""
    if base.turning_radius:
        limit = np.abs(twist[:, 0]) / base.turning_radius
        twist[:, 2] = np.clip(twist[:, 2], -limit, limit)
    return twist


def advance(pose: Array, twist: Array) -> Array:
    """Integrate poses [N, 3] (x, y, heading) for one control step with constant velocities [N, 3]: along circular arcs."""
    half = twist[:, 2] * DT / 2
    forward, left = (twist[:, :2] * (DT * np.sinc(half / np.pi))[:, None]).T  # chord of an arc: sin(half) / half
    heading = pose[:, 2] + half
    c, s = np.cos(heading), np.sin(heading)
    return np.stack([pose[:, 0] + c * forward - s * left, pose[:, 1] + s * forward + c * left, wrap(heading + half)], axis=1)


def wrap(angle: Array) -> Array:
    """Wrap angles to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def to_body(vector: Array, heading: Array) -> Array:
    """Rotate vectors [N, ..., 2] from the world frame to a body frame with `heading` [N]."""
    heading = heading.reshape(-1, *(1,) * (vector.ndim - 2))
    c, s = np.cos(heading), np.sin(heading)
    return np.stack([c * vector[..., 0] + s * vector[..., 1], c * vector[..., 1] - s * vector[..., 0]], axis=-1)
