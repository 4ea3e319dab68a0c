"""Driver ``xarm``: UFACTORY xArm with its gripper, through xarm-python-sdk."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.polled import Polled, Sent
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

POSITION, SERVO = 0, 1  # modes
READY, STOP = 0, 4  # states
HALTED = {
    3: "paused, at the pendant or by a safeguard",
    4: "by a stop command",
    5: "by a stop command",
    6: "decelerating to a stop",
}
"""States in which the arm does not follow commands. After a pause it would move at once to the newest command."""
WIDE_OPEN = 850.0  # gripper position when open, counts
GRIPPER_SPEED = 3000  # counts per second


class XArmDriver:
    """Commands joint positions in servo mode.

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
        self._gripper: Polled | None = None
        self._moves: Sent | None = None
        self._stopped = False

    def connect(self) -> None:
        """See `RobotDriver`."""
        try:
            from xarm.wrapper import XArmAPI
        except ImportError:
            raise missing_package("driver xarm", "xarm-python-sdk", "xarm") from None
        try:
            self._arm = XArmAPI(self._host, is_radian=True, check_is_pause=False)  # a call must not wait for a person
        except Exception as error:  # the SDK raises plain exceptions
            raise ConfigError(f"robot {self.spec.name} at {self._host}: {error}") from None
        arm = self._arm
        if arm.error_code:
            raise ConfigError(f"robot {self.spec.name} has error {arm.error_code}: clear it in UFACTORY Studio")
        for what, code in (
            ("motion_enable", arm.motion_enable(True)),
            ("set_mode", arm.set_mode(SERVO)),
            ("set_state", arm.set_state(READY)),
            ("set_gripper_enable", arm.set_gripper_enable(True)),
            ("set_gripper_mode", arm.set_gripper_mode(POSITION)),
            ("set_gripper_speed", arm.set_gripper_speed(GRIPPER_SPEED)),
        ):
            if code:
                raise ConfigError(f"robot {self.spec.name}: {what} failed with code {code}")
        self._gripper = Polled(self._opening, (OSError,))
        self._moves = Sent(self._move, (OSError,))

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        arm, gripper, count = self._arm, self._gripper, len(self.spec.joints)
        if gripper is None or gripper.failed:
            raise RobotLost(f"robot {self.spec.name}: its gripper is gone")
        if not arm.connected:
            raise RobotLost(f"robot {self.spec.name}: it is gone")
        code, states = arm.get_joint_states(is_radian=True)
        if code:
            raise RobotLost(f"robot {self.spec.name}: get_joint_states failed with code {code}")
        # requests: the attributes of the SDK are filled by a report thread, 5 times per second
        (code, mode), (wrong, faults) = arm.get_state(), arm.get_err_warn_code()
        if code or wrong:
            raise RobotLost(f"robot {self.spec.name}: get_state and get_err_warn_code failed with codes {code} and {wrong}")
        return RobotState(
            time=time.monotonic(),
            joints=np.array(states[0][:count]),
            velocities=np.array(states[1][:count]),
            gripper=gripper.value,
            effort=float(np.abs(arm.currents[:count]).max()),
            stopped=f"error {faults[0]}" if faults[0] else HALTED.get(mode),
        )

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if self._stopped:
            return
        if code := self._arm.set_servo_angle_j(joints.tolist(), is_radian=True):
            raise RobotLost(f"robot {self.spec.name}: set_servo_angle_j failed with code {code}")
        if gripper is not None and self._moves is not None:
            if self._moves.failed:
                raise RobotLost(f"robot {self.spec.name}: {self._moves.failed}")
            self._moves.send(gripper)

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._stopped = True
        if code := self._arm.set_state(STOP):
            raise RobotLost(f"robot {self.spec.name}: set_state failed with code {code}: use its emergency stop")

    def close(self) -> None:
        """See `RobotDriver`."""
        if self._moves is not None:
            self._moves.close()
        if self._gripper is not None:
            self._gripper.close()
        if self._arm is not None:
            self._arm.disconnect()

    def _move(self, opening: float) -> None:
        if code := self._arm.set_gripper_position(opening * WIDE_OPEN, wait=False):
            raise OSError(f"set_gripper_position failed with code {code}")

    def _opening(self) -> float:
        code, position = self._arm.get_gripper_position()
        if code:
            raise OSError(f"get_gripper_position failed with code {code}")
        return min(max(position / WIDE_OPEN, 0.0), 1.0)
