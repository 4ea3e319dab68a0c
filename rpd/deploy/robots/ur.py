"""Driver ``ur``: Universal Robots (e-series) through ur-rtde, with a Robotiq gripper."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.freshness import Freshness
from rpd.deploy.robots.polled import Polled, Sent
from rpd.deploy.robots.robotiq import PORT, Robotiq
from rpd.deploy.robots.ur_network import check_stream, dashboard
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

LOOKAHEAD, GAIN = 0.1, 300.0  # servoJ: lookahead time in [0.03, 0.2] s, and gain in [100, 2000]
DECELERATION = 5.0  # servoStop, m/s^2
STOP_ACCELERATION = 4.0  # stopJ, rad/s^2
PLAYING = 2  # runtime state of a program that runs
SAFETY_STOPS = {
    2: "protective stop", 4: "safeguard stop", 7: "emergency stop", 8: "violation of its safety limits", 9: "fault",
    10: "stopped due to safety",
}  # fmt: skip
"""Bits of the safety status in which the arm does not follow commands."""
CONNECT_TIMEOUT, DASHBOARD_TIMEOUT = 3.0, 0.2  # longest wait for the data stream, and for the dashboard server, s


class URDriver:
    """Commands joint positions by ``servoJ``; the controller's watchdog stops the arm if commands end.

    Args:
        config: config of the robot.
        host: address of the controller; it has to be in remote control.
        gripper_port: port of the gripper's URCap.
    """

    resets: ClassVar[bool] = False

    def __init__(self, config: RobotConfig, host: str, gripper_port: int = PORT) -> None:
        self._config, self._host, self._port = config, host, gripper_port
        self.spec = RobotSpec(config.kinematics, ROBOTS[config.kinematics].joints, rates=(10.0, 500.0), effort="N", real=True)
        self._control: Any = None
        self._receive: Any = None
        self._gripper: Robotiq | None = None
        self._opening: Polled | None = None
        self._moves: Sent | None = None
        self._freshness = Freshness()
        self._watched = self._stopped = self._closed = False

    def connect(self) -> None:
        """See `RobotDriver`."""
        try:
            import rtde_control
            import rtde_receive
        except ImportError:
            raise missing_package("driver ur", "ur-rtde", "ur") from None
        try:
            check_stream(self._host, CONNECT_TIMEOUT)
            self._receive = rtde_receive.RTDEReceiveInterface(self._host)
            self._control = rtde_control.RTDEControlInterface(self._host)
            self._gripper = Robotiq(self._host, self._port, self._config.watchdog.observation_age)
            self._opening = Polled(self._gripper.opening, (OSError,))
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"robot {self.spec.name} at {self._host}: {error}: is it on, and in remote control?") from None
        self._moves = Sent(self._gripper.move, (OSError,))

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        receive, opening = self._receive, self._opening
        self._check_connected()
        if opening is None or opening.failed:
            raise RobotLost(f"robot {self.spec.name}: gripper: {opening.failed if opening else 'not connected'}")
        return RobotState(
            time=self._freshness.time(receive.getTimestamp()),
            joints=np.array(receive.getActualQ()),
            velocities=np.array(receive.getActualQd()),
            gripper=opening.value,
            effort=float(np.linalg.norm(receive.getActualTCPForce()[:3])),
            stopped=self._halted(),
        )

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if self._stopped:
            return
        self._check_connected()
        if not self._watched:  # not before: the watchdog would stop the script while a person confirms the start
            self._watched = self._control.setWatchdog(1 / self._config.watchdog.command_timeout)
            if not self._watched:
                raise RobotLost(f"robot {self.spec.name}: it refuses its watchdog")
        # servoJ writes the register that the watchdog watches: a kickWatchdog after it could overwrite it before it is read
        # servoJ(q, speed, acceleration, time, lookahead_time, gain): the controller ignores speed and acceleration
        if not self._control.servoJ(joints.tolist(), 0.0, 0.0, 1 / self._config.rate, LOOKAHEAD, GAIN):
            raise RobotLost(f"robot {self.spec.name}: it refuses servoJ")
        if gripper is not None and self._moves is not None:
            if self._moves.failed:
                raise RobotLost(f"robot {self.spec.name}: gripper: {self._moves.failed}")
            self._moves.send(gripper)

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._stopped = True
        self._check_connected()
        try:
            if self._control.servoStop(DECELERATION):
                return
            self._control.stopJ(STOP_ACCELERATION, True)  # asynchronous; does not tell whether it is obeyed
            if self._control.triggerProtectiveStop():
                return
        except RuntimeError as error:
            raise RobotLost(f"robot {self.spec.name}: {error}: use its emergency stop") from None
        raise RobotLost(f"robot {self.spec.name}: it refuses servoStop and triggerProtectiveStop: use its emergency stop")

    def stop_otherwise(self) -> None:
        """See `SecondStop`: stop the control script through the dashboard server."""
        try:
            answer = dashboard(self._host, "stop", DASHBOARD_TIMEOUT)
        except OSError as error:
            raise RobotLost(f"robot {self.spec.name}: its dashboard server: {error}: use its emergency stop") from None
        if answer != "Stopped":
            raise RobotLost(f"robot {self.spec.name}: its dashboard server answers {answer!r} to stop: use its emergency stop")

    def close(self) -> None:
        """See `RobotDriver`.

        Raises:
            RobotLost: the connection is lost, and ur_rtde is reconnecting: it must not be called any more.
        """
        if self._closed:
            return
        self._closed = True
        if self._moves is not None:
            self._moves.close()
        if self._opening is not None:
            self._opening.close()
        if self._gripper is not None:
            self._gripper.close()
        self._check_connected()
        with contextlib.ExitStack() as stack:  # each, whether or not the others fail
            if self._receive is not None:
                stack.callback(self._receive.disconnect)
            if self._control is not None:
                stack.callback(self._control.disconnect)
                stack.callback(self._control.stopScript)

    def _check_connected(self) -> None:
        """Raise if the controller has closed the connection.

        ur_rtde's control interface then reconnects by itself, in a thread: a call of it meanwhile may crash the process.

        Raises:
            RobotLost: it has.
        """
        if self._receive is not None and not self._receive.isConnected():
            raise RobotLost(f"robot {self.spec.name}: it has closed the connection")

    def _halted(self) -> str | None:
        """Return the reason why the controller has stopped, or None."""
        bits = self._receive.getSafetyStatusBits()
        for bit, name in SAFETY_STOPS.items():
            if bits >> bit & 1:
                return name
        if self._watched and not self._stopped and self._receive.getRuntimeState() != PLAYING:
            return "its script does not run any more: stopped at the pendant, or by its watchdog"
        return None
