"""A simulated tabletop robot for deployment: takes joint positions, and runs in real time with or without commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.control.state_names import TRACKED
from rpd.envs.errors import ConfigError
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.mjcf import SUBSTEPS, TIMESTEP


@dataclass(frozen=True)
class Measurement:
    """Measurements of the robot and of an object tracker."""

    joints: np.ndarray
    """[n] rad."""
    velocities: np.ndarray
    """[n] rad/s."""
    opening: float
    """Distance between the fingers, as a fraction of fully open."""
    tracked: dict[str, float]
    """State entries by name, see `TRACKED`."""
    privileged: np.ndarray
    """[ManipulationState.dim], for teachers."""
    success: bool
    """Whether the task has been solved in this episode."""


class LiveTabletop(TabletopEnv):
    """A task with a robot in one environment, stepped by 10 ms.

    Success is checked at the end of every control step, as in an evaluation.

    Raises:
        ConfigError: a robot with delayed commands: the delay is part of its simulated controller.
    """

    def __init__(self, task: str, config: EnvConfig) -> None:
        """Build from a validated task name; see `rpd.envs.registry.make`."""
        super().__init__(task, config.model_copy(update={"num_envs": 1}), torch.device("cpu"), 1)
        if self.robot.delay:
            raise ConfigError(
                f"robot {self.robot.name} has a command delay, which deployment does not simulate: choose another"
            )
        self._ticks, self._solved, self._before = 0, False, np.zeros((1, 3))
        self._opening = self.robot.opening / 2  # commanded, of each finger

    def begin(self, seed: int) -> None:
        """Start the episode of a seed."""
        self._begin(np.arange(1), np.array([seed]))
        self._ticks, self._solved, self._before = 0, False, self._now.tcp.copy()
        self._opening = self.robot.opening / 2

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """Set the servo goals.

        Args:
            joints: [n] rad.
            opening: distance between the fingers, as a fraction of fully open; None: unchanged.
        """
        self._ctrl[0, : len(joints)] = joints
        if opening is not None:
            self._opening = opening * self.robot.opening / 2

    def advance(self) -> None:
        """Step the simulation by `TIMESTEP`."""
        fingers, step = self._ctrl[0, len(self.robot.joints) :], self._finger_step / SUBSTEPS
        fingers += np.clip(self._opening - fingers, -step, step)
        self._batch.step(nstep=1)
        self._ticks += 1
        if self._ticks % SUBSTEPS == 0:
            moved = np.linalg.norm(self._now.tcp - self._before, axis=1)
            self._solved |= bool(self.task.success(self._now.frame(moved / (TIMESTEP * SUBSTEPS)))[0])
            self._before = self._now.tcp.copy()

    def sense(self) -> Measurement:
        """Measure the robot and the tracked objects."""
        obs = self._now.observe(
            np.arange(1), self._now.tcp, np.zeros((1, 0, 7)), self._config.obs_mode == "state", self.task.aerial
        )
        state = dict(zip(self.spec.state_names, obs["state"][0].tolist(), strict=True))
        return Measurement(
            joints=self._now.qpos[0, self._world.arm].copy(),
            velocities=self._now.qvel[0, self._world.arm_dofs].copy(),
            opening=state["gripper"],
            tracked={name: value for name, value in state.items() if name.startswith(TRACKED)},
            privileged=obs["privileged"][0].numpy(),
            success=self._solved,
        )

    def picture(self, camera: str) -> np.ndarray:
        """Image of an observation camera: uint8 [size, size, 3]."""
        return self._picture(self._renderers[f"image.{camera}"], np.arange(1))[0]
