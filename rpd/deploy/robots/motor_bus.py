"""Robots of LeRobot with a motor bus: connecting without letting the arm fall, and the errors that motors report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rpd.envs.errors import ConfigError

ERRORS = {0x01: "voltage", 0x02: "angle sensor", 0x04: "temperature", 0x08: "current", 0x20: "overload"}
"""Bits of the register Status of Feetech motors."""


class Rehearsal:
    """A motor bus that notes the writes of a robot's configuration, and writes nothing.

    Attributes:
        writes: (register, motor, value), in order.
    """

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.writes: list[tuple[str, str, int]] = []

    def __getattr__(self, name: str) -> Any:
        member = getattr(type(self._bus), name, None)
        return member.__get__(self) if callable(member) else getattr(self._bus, name)

    def write(self, register: str, motor: str, value: int, **_: Any) -> None:
        """Note a write."""
        self.writes.append((register, motor, int(value)))

    @contextlib.contextmanager
    def torque_disabled(self, *_: Any) -> Iterator[None]:
        """Leave the torque as it is."""
        yield


def connect(robot: Any, name: str) -> None:
    """Connect a robot, and configure its motors only if they are slack: LeRobot's `connect` would let an arm that holds fall.

    Args:
        robot: robot of LeRobot with a `bus`, not connected.
        name: name of the robot, for messages.

    Raises:
        ConfigError: it is not calibrated, or it holds with other settings than LeRobot's.
        OSError, RuntimeError: a motor does not answer, or reports an error.
    """
    bus = robot.bus
    bus.connect()
    if not robot.is_calibrated:
        raise ConfigError(f"robot {name} is not calibrated: run lerobot-calibrate first")
    slack = [motor for motor, on in bus.sync_read("Torque_Enable").items() if not on]
    # A motor with new torque moves to its last goal.
    here = bus.sync_read("Present_Position", normalize=False)
    if slack:
        bus.sync_write("Goal_Position", {motor: here[motor] for motor in slack}, normalize=False)
    if len(slack) == len(bus.motors):
        robot.configure()
        return
    for register, motor, value in _settings(robot):
        found = bus.read(register, motor)
        if found != value:
            raise ConfigError(
                f"robot {name} holds, but {register} of {motor} is {found}, and LeRobot's is {value}: hold the arm, switch its "
                "power off and on, and start again"
            )
    if slack:
        bus.enable_torque(slack)


def reported(bus: Any) -> str | None:
    """Errors that the motors report, or None."""
    found = {motor: bits for motor, bits in bus.sync_read("Status").items() if bits}
    words = [f"{motor}: {', '.join(word for bit, word in ERRORS.items() if bits & bit)}" for motor, bits in found.items()]
    return "; ".join(words) or None


def release(bus: Any) -> None:
    """End the claim to the port of a call that an exception ended; else every further call fails."""
    bus.port_handler.is_using = False


def discard_answers(bus: Any) -> None:
    """Discard answers to earlier questions, which came too late."""
    release(bus)
    bus.port_handler.ser.reset_input_buffer()


def _settings(robot: Any) -> list[tuple[str, str, int]]:
    """Settings that the robot's own `configure` writes: (register, motor, value)."""
    bus, rehearsal = robot.bus, Rehearsal(robot.bus)
    robot.bus = rehearsal
    try:
        robot.configure()
    finally:
        robot.bus = bus
    return rehearsal.writes
