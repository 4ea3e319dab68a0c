"""Names of the entries of an arm's state vector, shared by simulation and deployment."""

from __future__ import annotations

from collections.abc import Sequence

from rpd.envs.control.ee_delta import DIMENSIONS
from rpd.envs.robots import Robot

SCALED = ("pending.", "touch.", "object.", "goal.")
"""Prefixes of the state entries that `EnvSpec.state_scaled` marks."""
TRACKED = ("touch.", "object.", "goal.")
"""Prefixes of the state entries that a robot does not measure itself: an object tracker provides them."""


def own_names(joints: Sequence[str]) -> list[str]:
    """Names of the state entries that a robot with these joints measures itself; the first entries of ``state``."""
    names = [f"q.{j}" for j in joints] + [f"dq.{j}" for j in joints] + ["gripper"]
    names += [f"tcp.{c}" for c in ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")]
    return names + [f"tcp_lag.{c}" for c in "xyz"]


def state_names(robot: Robot, scene: bool, goal: bool, oriented: bool = False) -> tuple[str, ...]:
    """Name each entry of ``state``; `scene` adds what only a simulator measures, `goal` adds the goal position alone.

    The robot's own measurements are in SI units. Entries whose names begin with one of `SCALED` are scaled, see
    `ManipulationState.relative`, also for `oriented`.
    """
    names = own_names(robot.joints)
    # With an action delay, pending actions are part of the state: otherwise equal observations have different futures.
    names += [f"pending.{d}{k}" for k in range(1, robot.delay + 1) for d in DIMENSIONS]
    if scene:
        names += ["touch.left", "touch.right"]
        names += [f"object.{c}" for c in ("dx", "dy", "dz", *(("cos", "sin") if oriented else ("cos4", "sin4")))]
        names += [f"goal.{c}" for c in ("dx", "dy", "dz")]
    if scene or goal:
        names += [f"goal.{c}" for c in ("tcp_dx", "tcp_dy", "tcp_dz")]
    return tuple(names)
