"""Mobile bases as data, and the one law of motion that they share: tracking a velocity within what the body can do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.navigate.geometry import Array
from envs.specs import ActionSpec, Embodiment

CONTROL_HZ = 10.0  # COMPASS
DT = 1 / CONTROL_HZ

COMMAND = ActionSpec(
    names=("vx", "vy", "yaw_rate"),
    units=("m/s", "m/s", "rad/s"),
    scale=(1.0, 1.0, 1.5),
    discrete=(False, False, False),
)
"""The velocity command, the same for every base. x is forward, y left; a base does of it what its body can."""


@dataclass(frozen=True)
class Base:
    """A mobile base with a round footprint. What kind it is follows from its numbers.

    Attributes:
        name: registry name.
        radius: of the footprint, m.
        forward: highest speed forward, m/s.
        backward: highest speed backward, m/s.
        sideways: highest speed to either side, m/s; 0: wheels that do not slip.
        yaw_rate: highest turning speed, rad/s.
        lag: time constant with which the velocity follows the command, s.
        yaw_lag: the same of the turning speed, s.
        turning_radius: tightest curve, m; 0: turns on the spot.
        sway: standard deviation per step of the velocity at full gait, m/s: legs do not roll. None of it standing still.
        yaw_sway: the same of the turning speed, rad/s.
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
        """[3] most negative velocity (vx, vy, yaw rate), m/s and rad/s."""
        return np.array([-self.backward, -self.sideways, -self.yaw_rate])

    @property
    def high(self) -> Array:
        """[3] highest velocity (vx, vy, yaw rate), m/s and rad/s."""
        return np.array([self.forward, self.sideways, self.yaw_rate])

    def embodiment(self) -> Embodiment:
        """Describe the base to a policy, in SI units."""
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
    """Follow a velocity command for one control step.

    Args:
        base: whose body it is.
        twist: [N, 3] velocity (vx, vy, yaw rate) in the body's frame, m/s and rad/s.
        command: [N, 3] wanted, in the same units, of any size.
        noise: [N, 3] standard normal numbers.

    Returns:
        The velocity [N, 3] after the step, and the mean velocity [N, 3] over it.
    """
    wanted = np.clip(command, base.low, base.high)
    keep = np.exp(-DT / np.array([base.lag, base.lag, base.yaw_lag]))
    after: Array = wanted + (twist - wanted) * keep  # dv/dt = (wanted - v) / lag, exactly
    gait = np.sqrt(((after / np.array([base.forward, max(base.sideways, base.forward), base.yaw_rate])) ** 2).sum(axis=1))
    slip = np.array([base.sway, base.sway if base.sideways else 0.0, base.yaw_sway])
    after = _steer(base, after + slip * np.minimum(gait, 1.0)[:, None] * noise)
    return after, _steer(base, (twist + after) / 2)


def _steer(base: Base, twist: Array) -> Array:
    """Velocities [N, 3] with the turning speed that the tightest curve allows at that speed."""
    if base.turning_radius:
        limit = np.abs(twist[:, 0]) / base.turning_radius
        twist[:, 2] = np.clip(twist[:, 2], -limit, limit)
    return twist


def advance(pose: Array, twist: Array) -> Array:
    """Move poses [N, 3] (x, y, heading) for one control step with constant velocities [N, 3]: along arcs of circles."""
    half = twist[:, 2] * DT / 2
    forward, left = (twist[:, :2] * (DT * np.sinc(half / np.pi))[:, None]).T  # chord of an arc: sin(half) / half
    heading = pose[:, 2] + half
    c, s = np.cos(heading), np.sin(heading)
    return np.stack([pose[:, 0] + c * forward - s * left, pose[:, 1] + s * forward + c * left, wrap(heading + half)], axis=1)


def wrap(angle: Array) -> Array:
    """Angles as they are in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def to_body(vector: Array, heading: Array) -> Array:
    """Turn vectors [N, ..., 2] from the world's axes to those of a body with `heading` [N]."""
    heading = heading.reshape(-1, *(1,) * (vector.ndim - 2))
    c, s = np.cos(heading), np.sin(heading)
    return np.stack([c * vector[..., 0] + s * vector[..., 1], c * vector[..., 1] - s * vector[..., 0]], axis=-1)
