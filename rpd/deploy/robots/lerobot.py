"""Driver ``lerobot``: SO-100, SO-101, and other robots with a LeRobot plugin and joint positions in degrees."""

from __future__ import annotations

import contextlib
import termios
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots import motor_bus
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

LOST = (OSError, RuntimeError, termios.error)
"""Exceptions of LeRobot: a motor does not answer; a motor answers with an error; the serial port is gone."""
QUIET = 0.05  # time for late answers to arrive before a question is repeated, s: answers have no number
WIDE_OPEN = 100.0  # gripper opening in LeRobot, percent


class LeRobotDriver:
    """Commands goal positions of the motors. The robot has no watchdog: motors hold the last commanded position.

    Zero and sign of LeRobot's motor angles come from its calibration; `offset` and `sign` convert them to joint angles:
    joint = sign (motor - offset).

    Args:
        config: config of the robot.
        host: serial port, e.g. ``/dev/ttyACM0``.
        type: LeRobot's name of the robot.
        id: name of its calibration file.
        motors: names of the joint motors, from base to flange.
        offset: zero of every joint, degrees.
        sign: sign of every joint, 1 or -1.
        options: further fields of LeRobot's configuration.
    """

    resets: ClassVar[bool] = False

    def __init__(
        self,
        config: RobotConfig,
        host: str,
        type: str,
        id: str,
        motors: list[str],
        offset: list[float],
        sign: list[float],
        options: dict[str, Any] | None = None,
    ) -> None:
        joints = ROBOTS[config.kinematics].joints
        for name, given in (("motors", motors), ("offset", offset), ("sign", sign)):
            if len(given) != len(joints):
                raise ConfigError(f"connection.{name} has {len(given)} entries, and {config.kinematics} {len(joints)} joints")
        self._order = {"type": type, "port": host, "id": id, **(options or {})}
        self._motors, self._offset, self._sign = [f"{m}.pos" for m in motors], np.array(offset), np.array(sign)
        self.spec = RobotSpec(config.kinematics, joints, rates=(5.0, 60.0), effort=None, real=True)
        self._robot: Any = None
        self._before: tuple[float, Array] | None = None
        self._goal: Array | None = None
        self._stopped = self._lossy = False
        self._line = threading.Lock()  # a stop comes from another thread, and the serial line takes one call at a time

    def connect(self) -> None:
        """See `RobotDriver`. Motors that hold go on holding."""
        try:
            from lerobot.robots import so_follower  # noqa: F401  (registers its robots)
            from lerobot.robots.config import RobotConfig as LeRobotConfig
            from lerobot.robots.utils import make_robot_from_config
            from lerobot.utils.import_utils import register_third_party_plugins
        except ImportError:
            raise missing_package("driver lerobot", "lerobot", "lerobot") from None
        register_third_party_plugins()
        order = dict(self._order)
        if "calibration_dir" in order:
            order["calibration_dir"] = Path(order["calibration_dir"])
        try:
            made = LeRobotConfig.get_choice_class(order.pop("type"))(**order)
            self._robot = make_robot_from_config(made)
            if self._bus is not None:
                motor_bus.connect(self._robot, self.spec.name)
            else:
                self._robot.connect(calibrate=False)  # calibration would prompt to move the arm by hand
        except (LookupError, TypeError, ValueError, *LOST) as error:
            raise ConfigError(f"robot {self.spec.name} at {self._order['port']}: {_line(error)}") from None
        if not self._robot.is_calibrated:
            raise ConfigError(f"robot {self.spec.name} is not calibrated: run lerobot-calibrate first")

    @property
    def _bus(self) -> Any:
        """Motor bus of the robot, or None: a plugin may have another connection."""
        return getattr(self._robot, "bus", None)

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        try:
            with self._line:
                now, observed = self._observe()
                stopped = motor_bus.reported(self._bus) if self._bus is not None else None
        except LOST as error:
            raise self._lost(error) from None
        degrees = np.array([observed[motor] for motor in self._motors])
        joints = np.radians(self._sign * (degrees - self._offset))
        then, before = self._before or (now - 1, joints)
        self._before = now, joints
        velocities = (joints - before) / max(now - then, 1e-3)
        return RobotState(now, joints, velocities, observed["gripper.pos"] / WIDE_OPEN, stopped=stopped)

    def _observe(self) -> tuple[float, dict[str, float]]:
        """Ask the motors; once more if a packet is lost, but not twice in a row.

        Returns:
            `time.monotonic` of the first question, and LeRobot's observation.
        """
        now = time.monotonic()
        if self._bus is None:
            return now, self._robot.get_observation()
        try:
            observed, self._lossy = self._robot.get_observation(), False
        except LOST:
            if self._lossy:
                raise
            self._lossy = True
            observed = self._again()
        return now, observed

    def _again(self) -> dict[str, float]:
        """Ask the motors once more, on a quiet line."""
        time.sleep(QUIET)
        motor_bus.discard_answers(self._bus)
        return self._robot.get_observation()

    def _surely(self) -> dict[str, float]:
        """Ask the motors for a stop: once more if a packet is lost, whatever was lost before."""
        motor_bus.discard_answers(self._bus)
        try:
            return self._robot.get_observation()
        except LOST:
            return self._again()

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if not self._stopped:
            opening = {} if gripper is None else {"gripper.pos": WIDE_OPEN * gripper}
            self._goal = self._sign * np.degrees(joints) + self._offset
            with self._line:
                self._send(self._goal, opening)

    def stop(self) -> None:
        """See `RobotDriver`: commands the current positions; the gripper keeps its grasp."""
        self._stopped = True
        with self._line:
            try:
                observed = self._robot.get_observation() if self._bus is None else self._surely()
            except LOST as error:
                if self._goal is not None:  # commands are not acknowledged: motors that do not answer may obey
                    with contextlib.suppress(RobotLost):
                        self._send(self._goal, {})
                raise RobotLost(f"robot {self.spec.name}: {_line(error)}: switch its power off if it moves") from None
            self._send(np.array([observed[motor] for motor in self._motors]), {})

    def close(self) -> None:
        """See `RobotDriver`: the motors hold, unless `options` say otherwise (disable_torque_on_disconnect)."""
        if self._robot is not None and self._robot.is_connected:
            self._robot.disconnect()

    def _send(self, degrees: Array, gripper: dict[str, float]) -> None:
        try:
            self._robot.send_action({**dict(zip(self._motors, degrees.tolist(), strict=True)), **gripper})
        except LOST as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> RobotLost:
        """Exception of the driver for one of LeRobot."""
        if self._bus is not None:
            motor_bus.release(self._bus)
        return RobotLost(f"robot {self.spec.name}: {_line(error)}")


def _line(error: Exception) -> str:
    """Message of an exception of LeRobot in one line, without its lists of motors."""
    return " ".join(str(error).partition("\nFull expected motor list")[0].split())
