"""One tabletop robot that is told joint positions, as a real one is, and goes on whether it is told anything or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.tabletop.env import TabletopEnv
from envs.tabletop.world import SUBSTEPS, TIMESTEP

TRACKED = ("touch.", "object.", "goal.")
"""Beginnings of the names of state entries that a robot does not measure of itself."""


@dataclass(frozen=True)
class Sensed:
    """What is measured of the robot, and what a tracker beside it would say."""

    joints: np.ndarray
    """[n] rad."""
    velocities: np.ndarray
    """[n] rad/s."""
    opening: float
    """Distance of the fingers, as a fraction of fully open."""
    tracked: dict[str, float]
    """State entries by name, see `TRACKED`."""
    privileged: np.ndarray
    """[Scene.dim] for teachers."""
    success: bool
    """The task has been solved in this episode."""


class LiveTabletop(TabletopEnv):
    """A task with a robot, once, 10 ms at a time.

    Success is what it is in an evaluation: looked for at the end of every control step.

    Raises:
        ConfigError: a robot whose commands are late, which is a property of its controller.
    """

    def __init__(self, task: str, config: EnvConfig) -> None:
        """Build from a validated task name; see `envs.registry.make`."""
        super().__init__(task, config.model_copy(update={"num_envs": 1}), torch.device("cpu"), 1)
        if self.robot.delay:
            raise ConfigError(f"robot {self.robot.name} has late commands, which the live simulation lacks: choose another")
        self._ticks, self._solved, self._before = 0, False, np.zeros((1, 3))

    def begin(self, seed: int) -> None:
        """Start the episode of a seed."""
        self._begin(np.arange(1), np.array([seed]))
        self._ticks, self._solved, self._before = 0, False, self._now.tcp.copy()

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """Aim the servos.

        Args:
            joints: [n] rad.
            opening: distance of the fingers, as a fraction of fully open; None: as before.
        """
        self._ctrl[0, : len(joints)] = joints
        if opening is not None:
            self._ctrl[0, len(joints) :] = opening * self.robot.opening / 2

    def advance(self) -> None:
        """Let `TIMESTEP` pass."""
        self._batch.step(nstep=1)
        self._ticks += 1
        if self._ticks % SUBSTEPS == 0:
            moved = np.linalg.norm(self._now.tcp - self._before, axis=1)
            self._solved |= bool(self.task.success(self._now.frame(moved / (TIMESTEP * SUBSTEPS)))[0])
            self._before = self._now.tcp.copy()

    def sense(self) -> Sensed:
        """Measure."""
        obs = self._now.observe(np.arange(1), self._now.tcp, np.zeros((1, 0, 7)), self._config.obs == "state", self.task.aerial)
        state = dict(zip(self.spec.state_names, obs["state"][0].tolist(), strict=True))
        return Sensed(
            joints=self._now.qpos[0, self._world.arm].copy(),
            velocities=self._now.qvel[0, self._world.arm_dofs].copy(),
            opening=state["gripper"],
            tracked={name: value for name, value in state.items() if name.startswith(TRACKED)},
            privileged=obs["privileged"][0].numpy(),
            success=self._solved,
        )

    def picture(self, camera: str) -> np.ndarray:
        """What a camera of the observations sees: uint8 [size, size, 3]."""
        return self._picture(self._renderers[f"image.{camera}"], np.arange(1))[0]
