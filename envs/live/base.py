"""Interface of a simulated robot for deployment: one episode at a time, stepped by joint commands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rpd.envs.errors import ConfigError
from rpd.envs.simulator_options import IDEAL
from rpd.envs.specs import Viewpoint

SIMULATORS = {
    "sim": "rpd.envs.tabletop.simulated_arm:LiveTabletop",
    "maniskill": "rpd.envs.maniskill.simulated_arm:LiveManiSkill",
    "robosuite": "rpd.envs.robosuite.simulated_arm:LiveRobosuite",
}
"""``module:class`` of each `LiveRobot`, by the name of its driver in a robot file."""


@dataclass(frozen=True)
class Setup:
    """Arguments of a simulated robot."""

    task: str
    """E.g. ``"tabletop/PickCube"``."""
    robot: str
    """Robot of `rpd.envs.robots`."""
    limits: str = IDEAL
    """See `rpd.envs.simulator_options.TabletopOptions.limits`; of the tabletop simulation alone."""
    image_size: int | None = None
    """Height and width of the images, pixels; None: the tabletop's default."""
    viewpoints: Mapping[str, Viewpoint | None] = field(default_factory=dict)
    """Cameras by name, with their places; None: the tabletop's own."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Options of the simulator: `connection` of a robot file."""

    def check_options(self, known: Collection[str]) -> None:
        """Check the options.

        Raises:
            ConfigError: one is unknown, or not a positive number.
        """
        for name, value in self.options.items():
            if name not in known:
                raise ConfigError(f"connection.{name} is unknown: it has {', '.join(known) or 'no options'}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"connection.{name} is {value!r}: a positive number is needed")


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
    """State entries by name, see `rpd.envs.control.state_names.TRACKED`."""
    privileged: np.ndarray
    """[ManipulationState.dim], for teachers."""
    success: bool
    """Whether the task has been solved in this episode."""


class LiveRobot(Protocol):
    """A robot with a task in one simulation. Its class takes a `Setup`, and raises a `ConfigError` if it does not have that.

    Success is the tabletop task's own criterion, checked every 50 ms, as in an evaluation.
    """

    timestep: float
    """Time of `advance`, s."""
    joints: tuple[str, ...]
    """Names of the n joints, from base to flange."""
    tracked: tuple[str, ...]
    """Names of the entries of `Measurement.tracked`, in order."""

    @property
    def instruction(self) -> str:
        """Language instruction of the episode."""

    def begin(self, seed: int) -> None:
        """Start the episode of a seed, at rest."""

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """Set the goals of the joints [n], rad, and of the fingers, as a fraction of fully open; None: unchanged."""

    def advance(self) -> None:
        """Step the simulation by `timestep`."""

    def sense(self) -> Measurement:
        """Measure the robot and the tracked objects."""

    def picture(self, camera: str) -> np.ndarray:
        """Image of a camera of the setup: uint8 [size, size, 3]."""

    def close(self) -> None:
        """Release the simulation; may be called repeatedly."""
