"""Driver ``lerobot``: SO-100, SO-101, and other robots with a LeRobot plugin and joint positions in degrees."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

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
        self._stopped = False

    def connect(self) -> None:
        """See `RobotDriver`."""
        try:
            from lerobot.robots import so_follower  # noqa: F401  (registers its robots)
            from lerobot.robots.config import RobotConfig as LeRobotConfig
            from lerobot.robots.utils import make_robot_from_config
            from lerobot.utils.import_utils import register_third_party_plugins
        except ImportError:
            raise missing_package("driver lerobot", "lerobot", "lerobot") from None
        register_third_party_plugins()
        order = dict(self._order)
        try:
            made = LeRobotConfig.get_choice_class(order.pop("type"))(**order)
            self._robot = make_robot_from_config(made)
            self._robot.connect(calibrate=False)  # calibration would prompt to move the arm by hand
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ConfigError(f"robot {self.spec.name} at {self._order['port']}: {error}") from None
        if not self._robot.is_calibrated:
            raise ConfigError(f"robot {self.spec.name} is not calibrated: run lerobot-calibrate first")

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        try:
            observed = self._robot.get_observation()
        except OSError as error:
            raise RobotLost(f"robot {self.spec.name}: {error}") from None
        now, degrees = time.monotonic(), np.array([observed[motor] for motor in self._motors])
        joints = np.radians(self._sign * (degrees - self._offset))
        then, before = self._before or (now - 1, joints)
        self._before = now, joints
        return RobotState(now, joints, (joints - before) / max(now - then, 1e-3), observed["gripper.pos"] / WIDE_OPEN)

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if not self._stopped:
            opening = {} if gripper is None else {"gripper.pos": WIDE_OPEN * gripper}
            self._send(self._sign * np.degrees(joints) + self._offset, opening)

    def stop(self) -> None:
        """See `RobotDriver`: commands the current positions; the gripper keeps its grasp."""
        self._stopped = True
        try:
            observed = self._robot.get_observation()
        except OSError as error:
            raise RobotLost(f"robot {self.spec.name}: {error}: switch its power off") from None
        self._send(np.array([observed[motor] for motor in self._motors]), {})

    def close(self) -> None:
        """See `RobotDriver`: the motors hold, unless `options` say otherwise (disable_torque_on_disconnect)."""
        if self._robot is not None and self._robot.is_connected:
            self._robot.disconnect()

    def _send(self, degrees: Array, gripper: dict[str, float]) -> None:
        try:
            self._robot.send_action({**dict(zip(self._motors, degrees.tolist(), strict=True)), **gripper})
        except OSError as error:
            raise RobotLost(f"robot {self.spec.name}: {error}") from None
