"""A robot under commissioning: its file, its driver, and its emergency stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rpd.config.commissioning import TASK
from rpd.deploy.config import RobotConfig
from rpd.deploy.consent import confirm_motion
from rpd.deploy.emergency import Emergency
from rpd.deploy.policy import wanted_spec
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.contract import Finding, check
from rpd.deploy.robots.sim import SimDriver
from rpd.deploy.slow_motion import SlowMotion
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS
from rpd.envs.specs import EnvSpec

SEED = 3_000_000
"""Seed of the episode of a simulated robot."""


@dataclass
class Station:
    """Access to a robot.

    Attributes:
        name: name of the robot file, as typed.
        config: config of the robot; steps replace it.
        task: task of a simulated robot, and of the pictures; None: that of the policy.
        host: address that overrides the file's.
        estop_file: file that stops the robot as soon as it exists.
        policy: policy of the first dry run, if any.
    """

    name: str
    config: RobotConfig
    task: str | None
    host: str | None
    estop_file: Path
    policy: str | None = None
    _simulated: RobotDriver | None = None

    @property
    def real(self) -> bool:
        """Whether a physical robot moves, according to its driver."""
        return self.config.driver not in SIMULATORS and self.driver().spec.real

    @cached_property
    def spec(self) -> EnvSpec:
        """Spec of the policy's training; without a policy that of the task, with the cameras of the robot file that it has.

        Raises:
            ConfigError: no such policy or task.
        """
        if self.policy is not None:
            return wanted_spec(self.policy, self.task, self.config.kinematics)
        task = self.task or TASK
        cameras = tuple(name for name in self.config.cameras if name in envs.task_info(task).cameras)
        seen = {"obs_mode": "rgb", "cameras": cameras} if cameras else {}
        env = envs.make(task, EnvConfig(robot=self.config.kinematics, num_envs=1, **seen), num_threads=1)
        env.close()
        return env.spec

    def driver(self) -> RobotDriver:
        """Make a driver, unconnected.

        Raises:
            ConfigError: an unknown or missing argument of the driver.
        """
        return build(self.config, self.spec if self.config.driver in SIMULATORS else None, self.host)

    @contextlib.contextmanager
    def connected(self) -> Iterator[RobotDriver]:
        """Connect to the robot; a simulated one starts an episode.

        Raises:
            ConfigError: the robot is not reachable.
        """
        if self._simulated is not None:
            begin(self._simulated)
            yield self._simulated
            return
        robot = self.driver()
        with contextlib.ExitStack() as stack:
            stack.callback(robot.close)
            robot.connect()
            if isinstance(robot, SimDriver):  # kept until `close`: its process starts slowly
                self._simulated = robot
                stack.pop_all()
            begin(robot)
            yield robot

    def close(self) -> None:
        """End a simulated robot."""
        if self._simulated is not None:
            self._simulated.close()

    @contextlib.contextmanager
    def moving(self) -> Iterator[tuple[RobotDriver, SlowMotion]]:
        """Connect to move; the robot is stopped at the end, in every case.

        Raises:
            Stop, Unsafe, RobotLost, ConfigError: see `SlowMotion` and `connected`.
        """
        with Emergency(self.estop_file) as emergency, self.connected() as robot:
            motion = SlowMotion(robot, self.config, emergency)
            try:
                yield robot, motion
            finally:
                robot.stop()

    def check_contract(self, moves: bool) -> list[Finding]:
        """Check the driver, see `rpd.deploy.robots.contract.check`.

        Args:
            moves: whether to command the robot.

        Raises:
            ConfigError: a person at the terminal does not confirm the motion.
        """
        if self.real and moves:
            confirm_motion(self.name)
        with Emergency(self.estop_file) as emergency:
            return check(self.driver, self.config, moves=moves, begin=begin, emergency=emergency)

    def camera_address(self, robot: RobotDriver, name: str) -> str | None:
        """Address of the simulated cameras; None for a real one.

        Raises:
            ConfigError: a simulated camera of another robot.
        """
        if self.config.cameras[name].driver != "sim":
            return None
        if not isinstance(robot, SimDriver):
            raise ConfigError(f"cameras.{name}: driver sim has pictures of simulated robots alone, not of {self.config.driver}")
        return robot.camera_address


def begin(robot: RobotDriver) -> None:
    """Start an episode of a simulated robot."""
    if isinstance(robot, SimDriver):
        robot.reset(SEED)
