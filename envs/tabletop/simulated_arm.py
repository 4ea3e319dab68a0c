"""A simulated tabletop robot for deployment: takes joint positions, and runs in real time with or without commands."""

from __future__ import annotations

import numpy as np
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.control.state_names import TRACKED
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import Measurement, Setup
from rpd.envs.registry import task_info
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.mjcf import SUBSTEPS, TIMESTEP


class LiveTabletop(TabletopEnv):
    """A task with a robot in one environment, stepped by 10 ms; see `rpd.envs.live.base.LiveRobot`.

    Raises:
        ConfigError: options, or a robot with delayed commands: the delay is part of its simulated controller.
    """

    timestep = TIMESTEP

    def __init__(self, setup: Setup) -> None:
        setup.check_options(())
        cameras = tuple(setup.viewpoints)
        seen = {"obs_mode": "rgb", "cameras": cameras, "image_size": setup.image_size} if cameras else {}
        config = EnvConfig(robot=setup.robot, num_envs=1, limits=setup.limits, reward=task_info(setup.task).reward, **seen)
        super().__init__(setup.task, config, torch.device("cpu"), 1)
        if self.robot.delay:
            raise ConfigError(
                f"robot {self.robot.name} has a command delay, which deployment does not simulate: choose another"
            )
        self.joints = self.robot.joints
        self.tracked = tuple(name for name in self.spec.state_names if name.startswith(TRACKED))
        self._ticks, self._solved, self._before = 0, False, np.zeros((1, 3))
        self._opening = self.robot.opening / 2  # commanded, of each finger

    @property
    def instruction(self) -> str:
        """See `LiveRobot`."""
        return self.instructions[0]

    def begin(self, seed: int) -> None:
        """See `LiveRobot`."""
        self._begin(np.arange(1), np.array([seed]))
        self._ticks, self._solved, self._before = 0, False, self._now.tcp.copy()
        self._opening = self.robot.opening / 2

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """See `LiveRobot`."""
        self._control.goals[0, : len(joints)] = joints
        if opening is not None:
            self._opening = opening * self.robot.opening / 2

    def advance(self) -> None:
        """See `LiveRobot`."""
        fingers, step = self._control.goals[0, len(self.robot.joints) :], self._control.finger_step / SUBSTEPS
        fingers += np.clip(self._opening - fingers, -step, step)
        self._batch.step(nstep=1)
        self._ticks += 1
        if self._ticks % SUBSTEPS == 0:
            moved = np.linalg.norm(self._now.tcp - self._before, axis=1)
            self._solved |= bool(self.task.success(self._now.frame(moved / (TIMESTEP * SUBSTEPS)))[0])
            self._before = self._now.tcp.copy()

    def sense(self) -> Measurement:
        """See `LiveRobot`."""
        obs = self._now.observe(
            np.arange(1), self._now.tcp, np.zeros((1, 0, 7)), self._config.obs_mode == "state", self.task.aerial
        )
        state = dict(zip(self.spec.state_names, obs["state"][0].tolist(), strict=True))
        return Measurement(
            joints=self._now.qpos[0, self._world.arm].copy(),
            velocities=self._now.qvel[0, self._world.arm_dofs].copy(),
            opening=state["gripper"],
            tracked={name: state[name] for name in self.tracked},
            privileged=obs["privileged"][0].numpy(),
            success=self._solved,
        )

    def picture(self, camera: str) -> np.ndarray:
        """See `LiveRobot`."""
        return self._picture(self._renderers[f"image.{camera}"], np.arange(1))[0]
