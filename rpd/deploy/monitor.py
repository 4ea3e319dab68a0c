"""Checks of each robot state: fresh, finite, near its command, and within the contact limit."""

from __future__ import annotations

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import RobotState
from rpd.envs.control.arm import Array
from rpd.export.actors import invalid_entries

CLOCK_ERROR = 1e-3  # s, by which a time stamp may lie in the future


def check_finite(state: RobotState) -> None:
    """Raise if a measurement has invalid numbers.

    Raises:
        Stop: names them.
    """
    for what, values in state.numbers().items():
        if bad := invalid_entries(values):
            raise Stop(f"the robot reports {what} that are not numbers: {bad}")


def check_age(age: float, limit: float, what: str) -> None:
    """Raise if a measurement is too old, or its time is NaN or in the future.

    Args:
        age: its age, s.
        limit: maximum age, s.
        what: description of the measurement.

    Raises:
        Stop: states the age.
    """
    if not -CLOCK_ERROR <= age <= limit:
        raise Stop(f"{what} is {1000 * age:.0f} ms old" if age > limit else f"the time of {what} is not valid: {age:g} s ago")


def check_state(state: RobotState, age: float, commanded: Array, config: RobotConfig, effort_unit: str | None) -> None:
    """Raise if the robot has stopped, or its state is too old, invalid, off its command, or in strong contact.

    Args:
        state: measured state.
        age: its age, s.
        commanded: [n] joint positions of the last command, rad.
        config: limits and watchdog.
        effort_unit: unit of `RobotState.effort`.

    Raises:
        Stop: states the reason.
    """
    if state.stopped:
        raise Stop(f"the robot has stopped by itself: {state.stopped}")
    check_age(age, config.watchdog.observation_age, "the robot's last measurement")
    check_finite(state)
    error = np.abs(state.joints - commanded)
    if error.max() > config.limits.max_tracking_error:
        raise Stop(f"joint {error.argmax() + 1} is {error.max():.3f} rad from where it was commanded to be")
    limit = config.limits.max_contact_force
    if limit is not None and state.effort is not None and not state.effort <= limit:  # also NaN
        raise Stop(f"{state.effort:.3g} {effort_unit} on the arm, and {limit:g} are allowed")
