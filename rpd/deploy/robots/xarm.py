"""Driver ``xarm``: UFACTORY xArm with its gripper, through xarm-python-sdk."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots import xarm_network
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.polled import Polled, Sent
from rpd.deploy.robots.xarm_network import HALTED, STOP, STOP_CHECK
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

POSITION, SERVO = 0, 1  # modes
READY = 0  # state
CODES = {
    -8: "outside the range of a joint",
    -1: "the connection is closed",
    3: "no answer in time",
    7: "an answer to another request",
    8: "the connection is closed",
    9: "not ready to move",
    10: "refused",
}
"""Meaning of the SDK's codes."""
WIDE_OPEN = 850.0  # gripper position when open, counts
GRIPPER_SPEED = 3000  # counts per second
REPORTS = 30002  # port of the reports, which have the motor currents, 5 times per second
ANSWER = 0.3  # longest wait for an answer, as a fraction of the largest age of a measurement
SLOWER = 0.1  # s, by which reports and the gripper's answers may be older than other measurements
REPORT_TIMEOUT, SECOND_STOP_TIMEOUT = 2.0, 0.1  # longest wait for a report, and for an answer to the second stop, s


class XArmDriver:
    """Commands joint positions in servo mode.

    The SDK makes one request at a time per connection, so the gripper, which answers late, has a connection of its own.

    Args:
        config: config of the robot.
        host: address of the controller.
    """

    resets: ClassVar[bool] = False

    def __init__(self, config: RobotConfig, host: str) -> None:
        self._config, self._host = config, host
        joints = ROBOTS[config.kinematics].joints
        self.spec = RobotSpec(config.kinematics, joints, rates=(20.0, 250.0), effort="A", real=True)
        self._arm: Any = None
        self._aside: Any = None
        self._gripper: Polled | None = None
        self._moves: Sent | None = None
        self._reported: float | None = None
        self._stopped = False

    def connect(self) -> None:
        """See `RobotDriver`."""
        try:
            from xarm.core.utils.log import logger
            from xarm.wrapper import XArmAPI
        except ImportError:
            raise missing_package("driver xarm", "xarm-python-sdk", "xarm") from None
        logger.setLevel("CRITICAL")  # its messages, one per attempt to stop, would hide that of the control loop
        timeout = socket.getdefaulttimeout()
        try:
            # A call must not wait for a person at the pendant.
            self._arm = XArmAPI(self._host, is_radian=True, check_is_pause=False)
            self._aside = XArmAPI(self._host, is_radian=True, check_is_pause=False, enable_report=False)
        except Exception as error:  # the SDK raises plain exceptions
            raise ConfigError(f"robot {self.spec.name} at {self._host}: {error}: is it on?") from None
        finally:
            socket.setdefaulttimeout(timeout)  # the SDK sets it, for the whole process
        self._check()
        arm, aside = self._arm, self._aside
        for what, code in (
            ("motion_enable", arm.motion_enable(True)),
            ("set_mode", arm.set_mode(SERVO)),
            ("set_state", arm.set_state(READY)),
            ("set_gripper_enable", aside.set_gripper_enable(True)),
            ("set_gripper_mode", aside.set_gripper_mode(POSITION)),
            ("set_gripper_speed", aside.set_gripper_speed(GRIPPER_SPEED)),
        ):
            if code:
                raise ConfigError(f"robot {self.spec.name}: {what} failed: {_meaning(code)}")
        self._wait(lambda: arm.mode == SERVO, "it does not enter servo mode")
        arm.set_timeout(ANSWER * self._config.watchdog.observation_age)  # the SDK's 2 s are longer than `stop_within`
        self._gripper = Polled(self._opening, (OSError,))
        self._moves = Sent(self._move, (OSError,))

    def _check(self) -> None:
        """Raise if the arm is not the one of the robot file, has an error, or does not report.

        Raises:
            ConfigError: states the reason.
        """
        arm, name = self._arm, self.spec.name
        arm.register_report_callback(self._note_report)
        self._wait(lambda: self._reported is not None, f"no reports at port {REPORTS}")
        if arm.axis != len(self.spec.joints):
            raise ConfigError(f"robot {name} at {self._host} has {arm.axis} joints, and not {len(self.spec.joints)}")
        if arm.error_code:
            raise ConfigError(f"robot {name} has error {arm.error_code}: clear it in UFACTORY Studio")

    def _wait(self, reported: Callable[[], bool], failure: str) -> None:
        """Wait for a report.

        Raises:
            ConfigError: none within `REPORT_TIMEOUT`.
        """
        until = time.monotonic() + REPORT_TIMEOUT
        while not reported():
            if time.monotonic() > until:
                raise ConfigError(f"robot {self.spec.name} at {self._host}: {failure}, for {REPORT_TIMEOUT:g} s")
            time.sleep(0.01)

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        arm, count, now = self._arm, len(self.spec.joints), time.monotonic()
        # requests: the attributes of the SDK are filled by a report thread, 5 times per second
        states = self._ask("get_joint_states", arm.get_joint_states(is_radian=True))
        mode, faults = self._ask("get_state", arm.get_state()), self._ask("get_err_warn_code", arm.get_err_warn_code())
        return RobotState(
            time=now,
            joints=np.array(states[0][:count]),
            velocities=np.array(states[1][:count]),
            gripper=self._measured_opening(now),
            effort=self._largest_current(now),
            stopped=f"error {faults[0]}" if faults[0] else HALTED.get(mode),
        )

    def _ask(self, what: str, answer: tuple[int, Any]) -> Any:
        """Return the value of an SDK's answer.

        Raises:
            RobotLost: the answer is an error.
        """
        code, value = answer
        if code:
            raise RobotLost(f"robot {self.spec.name}: {what} failed: {_meaning(code)}")
        return value

    def _measured_opening(self, now: float) -> float:
        """Opening of the gripper; it is asked by a thread of its own.

        Raises:
            RobotLost: it does not answer.
        """
        gripper = self._gripper
        assert gripper is not None, "read after connect"
        if gripper.failed:
            raise RobotLost(f"robot {self.spec.name}: gripper: {gripper.failed}")
        if now - gripper.time > self._config.watchdog.observation_age + SLOWER:
            raise RobotLost(f"robot {self.spec.name}: gripper: no answer for {1000 * (now - gripper.time):.0f} ms")
        return gripper.value

    def _largest_current(self, now: float) -> float:
        """Current of the strongest motor, A, from the newest report.

        Raises:
            RobotLost: the reports have ended.
        """
        silence = now - (self._reported or 0.0)
        if silence > self._config.watchdog.observation_age + SLOWER:
            raise RobotLost(f"robot {self.spec.name}: no reports at port {REPORTS} for {1000 * silence:.0f} ms")
        return float(np.abs(self._arm.currents[: len(self.spec.joints)]).max())

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if self._stopped:
            return
        if code := self._arm.set_servo_angle_j(joints.tolist(), is_radian=True):
            raise RobotLost(f"robot {self.spec.name}: set_servo_angle_j failed: {_meaning(code)}")
        if gripper is not None and self._moves is not None:
            if self._moves.failed:
                raise RobotLost(f"robot {self.spec.name}: gripper: {self._moves.failed}")
            self._moves.send(gripper)

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._stopped = True
        code = self._arm.set_state(STOP)
        until = time.monotonic() + STOP_CHECK
        while not code:
            code, state = self._arm.get_state()
            if not code and state in HALTED:
                return
            if time.monotonic() > until:
                raise RobotLost(f"robot {self.spec.name}: it is in state {state} after set_state: use its emergency stop")
            time.sleep(0.005)
        raise RobotLost(f"robot {self.spec.name}: set_state failed: {_meaning(code)}: use its emergency stop")

    def stop_otherwise(self) -> None:
        """See `SecondStop`: stop the arm through a connection without the SDK."""
        try:
            xarm_network.stop(self._host, SECOND_STOP_TIMEOUT)
        except OSError as error:
            raise RobotLost(f"robot {self.spec.name}: second stop: {error}: use its emergency stop") from None

    def close(self) -> None:
        """See `RobotDriver`."""
        if self._moves is not None:
            self._moves.close()
        if self._gripper is not None:
            self._gripper.close()
        for connection in (self._aside, self._arm):
            if connection is not None:
                connection.disconnect()

    def _note_report(self, _: dict[str, Any]) -> None:
        self._reported = time.monotonic()

    def _move(self, opening: float) -> None:
        # Without `wait_motion=False` the SDK waits until the arm is at rest.
        if code := self._aside.set_gripper_position(opening * WIDE_OPEN, wait=False, wait_motion=False):
            raise OSError(f"set_gripper_position failed: {_meaning(code)}")

    def _opening(self) -> float:
        code, position = self._aside.get_gripper_position()
        if code:
            raise OSError(f"get_gripper_position failed: {_meaning(code)}")
        return min(max(position / WIDE_OPEN, 0.0), 1.0)


def _meaning(code: int) -> str:
    """Words for a code of the SDK."""
    return f"{CODES[code]} (code {code})" if code in CODES else f"code {code}"
