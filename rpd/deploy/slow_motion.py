"""Slow motions of an arm through the safety layer, for its commissioning and for the contract of its driver."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rpd.deploy import safety
from rpd.deploy.collision import CollisionChecker
from rpd.deploy.config import RobotConfig
from rpd.deploy.monitor import check_finite, check_state
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import RobotDriver
from rpd.envs.control.arm import Array
from rpd.envs.robots import ROBOTS

SPEED = 0.1
"""Highest speed of the fastest joint, rad/s."""
SETTLE = 0.5
"""Time at the goal before a motion counts as done, s."""
REACHED = 1e-3
"""Largest distance of a joint's last command from its goal, rad."""
MISSED = 20
"""Consecutive missed deadlines that end a motion: commands are not the continuous motion that was planned."""


class HeldBack(Stop):
    """Limits keep the arm from its goal."""


@dataclass
class Trace:
    """Commands and measurements of a motion with T ticks."""

    times: list[float] = field(default_factory=list)
    """Time of each command, `time.monotonic`, s."""
    commanded: list[Array] = field(default_factory=list)
    """[T, n] rad."""
    measured: list[Array] = field(default_factory=list)
    """[T, n] rad, before each command."""
    gripper: list[float] = field(default_factory=list)
    """Measured opening in [0, 1]."""
    calls: list[float] = field(default_factory=list)
    """Duration of each call of `RobotDriver.command`, s."""


class SlowMotion:
    """Moves a connected arm from its current posture; every command passes the limits of its file.

    Args:
        robot: connected driver.
        config: config of the robot.
        emergency: returns a reason to stop, or None; called at every tick.

    Raises:
        Stop: the robot has stopped by itself, or its measurements are not valid.
        Unsafe: the arm is outside its limits.
    """

    def __init__(self, robot: RobotDriver, config: RobotConfig, emergency: Callable[[], str | None]) -> None:
        self._robot, self._config, self._emergency = robot, config, emergency
        self._body = CollisionChecker(ROBOTS[config.kinematics], config.limits.clearance, config.limits.boxes)
        self._limits, self._period = config.safety_limits(), 1 / config.rate
        state = robot.read()
        if state.stopped:
            raise Stop(f"the robot does not move: {state.stopped}")
        check_finite(state)
        self._command = safety.initial_command(state.joints, state.velocities, self._limits, self._body)
        self._due, self._late = time.monotonic(), 0

    @property
    def posture(self) -> Array:
        """Commanded joint positions [n], rad."""
        return self._command.position

    def to(self, goal: Array, gripper: float | None = None, settle: float | None = None) -> Trace:
        """Move the joints to a goal and wait there.

        Args:
            goal: [n] rad.
            gripper: opening in [0, 1], or None.
            settle: time at the goal, s; default `SETTLE`.

        Raises:
            HeldBack: the limits do not allow the motion; the arm rests where they hold it.
            Stop: another reason to stop.
            RobotLost: the driver's.
        """
        settle = SETTLE if settle is None else settle
        start, trace, held = self.posture, Trace(), dict[str, None]()
        # a cosine profile, whose highest speed is pi / 2 of the mean
        ticks = math.ceil(np.abs(goal - start).max() * math.pi / (2 * SPEED) / self._period)
        for i in range(1, ticks + math.ceil(settle / self._period) + 1):
            share = 0.5 - 0.5 * math.cos(math.pi * min(i / ticks, 1.0)) if ticks else 1.0
            filtered = self._tick(start + (goal - start) * share, gripper, trace)
            held |= dict.fromkeys((*filtered.clamps, *([] if filtered.near is None else [str(filtered.near)])))
        if np.abs(self.posture - goal).max() > REACHED:
            raise HeldBack(f"limits keep the arm from its goal: {', '.join(held) or 'none named'}")
        return trace

    def _tick(self, wanted: Array, gripper: float | None, trace: Trace) -> safety.FilteredCommand:
        """Send one command."""
        time.sleep(max(0.0, self._due - time.monotonic()))
        now = time.monotonic()
        missed = int((now - self._due) / self._period)
        self._late = self._late + 1 if missed else 0
        if self._late >= MISSED:
            raise Stop(f"{self._late} deadlines in a row were missed: the computer is too busy")
        self._due += (1 + missed) * self._period
        if (reason := self._emergency()) is not None:
            raise Stop(reason)
        state = self._robot.read()
        check_state(state, time.monotonic() - state.time, self.posture, self._config, self._robot.spec.effort)
        before = self._command
        if missed:
            before = safety.after_gap(before, state.velocities, missed, self._limits, self._body, self._period)
        filtered = safety.filter_command(wanted, before, self._limits, self._body, self._period)
        self._command, began = filtered.command, time.monotonic()
        self._robot.command(self._command.position, gripper)
        trace.times.append(began)
        trace.calls.append(time.monotonic() - began)
        trace.commanded.append(self._command.position)
        trace.measured.append(state.joints)
        trace.gripper.append(state.gripper)
        return filtered
