"""Driver ``franka``: a Franka Panda with the Franka hand, through franky."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.freshness import Freshness
from rpd.deploy.robots.polled import Polled
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.robots import ROBOTS

SPEED, FORCE = 0.1, 20.0  # gripper speed, m/s, and grasp force, N
ANY_WIDTH = 1.0  # tolerance of the grasp width, m: accepts any width


class FrankaDriver:
    """Commands joint positions as motions that replace each other; franky plans and sends them at 1 kHz in its own thread.

    Args:
        config: config of the robot.
        host: address of the arm; its FCI has to be active.
        dynamics: fraction of Franka's limits of velocity, acceleration and jerk for a motion.
    """

    resets: ClassVar[bool] = False

    def __init__(self, config: RobotConfig, host: str, dynamics: float = 0.3) -> None:
        self._config, self._host, self._dynamics = config, host, dynamics
        self.spec = RobotSpec(config.kinematics, ROBOTS[config.kinematics].joints, rates=(1.0, 100.0), effort="N", real=True)
        self._franky: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self._robot: Any = None
        self._gripper: Any = None
        self._width: Polled | None = None
        self._most = 1.0
        self._commanded: float | None = None
        self._freshness = Freshness()
        self._stopped = False

    def connect(self) -> None:
        """See `RobotDriver`."""
        try:
            import franky
        except ImportError:
            raise missing_package("driver franka", "franky-control", "franka") from None
        self._franky = franky
        self._errors = (franky.Exception, franky.NetworkException, franky.ControlException, franky.CommandException)
        try:
            self._robot = franky.Robot(self._host, relative_dynamics_factor=self._dynamics)
            self._robot.recover_from_errors()
            self._gripper = franky.Gripper(self._host)
            self._most = self._gripper.max_width
        except self._errors as error:
            raise ConfigError(f"robot {self.spec.name} at {self._host}: {error}: brakes open, FCI active?") from None
        # Read over a second connection, so that a command does not wait for an answer.
        asked = franky.Gripper(self._host)
        self._width = Polled(lambda: asked.width, self._errors)

    def read(self) -> RobotState:
        """See `RobotDriver`."""
        width = self._width
        if width is None or width.failed:
            raise RobotLost(f"robot {self.spec.name}: its gripper is gone")
        try:
            state = self._robot.state
        except self._errors as error:
            raise RobotLost(f"robot {self.spec.name}: {error}") from None
        modes = self._franky.RobotMode
        halted = {modes.Reflex: "reflex", modes.UserStopped: "stopped by its user", modes.Guiding: "being guided"}
        return RobotState(
            time=self._freshness.time(state.time.to_sec()),
            joints=np.array(state.q),
            velocities=np.array(state.dq),
            gripper=min(max(width.value / self._most, 0.0), 1.0),
            effort=float(np.linalg.norm(state.O_F_ext_hat_K[:3])),
            stopped=halted.get(state.robot_mode),
        )

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        if self._stopped:
            return
        motion = self._franky.JointMotion(joints, return_when_finished=False)
        try:
            self._robot.move(motion, asynchronous=True)
        except self._errors as error:
            raise RobotLost(f"robot {self.spec.name}: {error}") from None
        if gripper is not None and gripper != self._commanded:
            if gripper > 0.5:
                self._gripper.move_async(self._most, SPEED)
            else:
                self._gripper.grasp_async(0.0, SPEED, FORCE, epsilon_inner=ANY_WIDTH, epsilon_outer=ANY_WIDTH)
            self._commanded = gripper

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._stopped = True
        try:
            self._robot.move(self._franky.JointStopMotion(), asynchronous=True)
        except self._errors as error:
            try:
                self._robot.stop()
            except self._errors:
                raise RobotLost(f"robot {self.spec.name}: {error}: use its emergency stop") from None

    def close(self) -> None:
        """See `RobotDriver`."""
        if self._width is not None:
            self._width.close()
        if self._robot is not None:
            self._robot.join_motion(1.0)
