"""A tabletop task in another simulator: its start, state entries and success, from poses that the simulator measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rpd.envs.control import kinematics
from rpd.envs.control.kinematics import Array
from rpd.envs.control.state_names import TRACKED, state_names
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import Measurement, Setup
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop import observations
from rpd.envs.tabletop.episode_start import EpisodeStart, draw, instruction
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD
from rpd.envs.tabletop.tasks import TASKS, Frame

PREFIX = "tabletop/"


@dataclass(frozen=True)
class Scene:
    """Measurements in a simulator; SI units, in the frame of the robot's base."""

    joints: Array
    """[n] rad."""
    velocities: Array
    """[n] rad/s."""
    tcp: Array
    """[3] tool center point."""
    hand: Array
    """[3, 3] rotation of the tool: z points out of the gripper, y along its opening."""
    opening: float
    """Distance between the fingers, as a fraction of fully open."""
    finger_forces: Array
    """[2, 3] of the left and the right finger on the object, N."""
    object: tuple[Array, Array]
    """Position [3] and quaternion [4] of the object; without an object, of the target."""
    object_speed: float
    """m/s; 0 without an object."""
    target: tuple[Array, Array]
    """Position [3] and quaternion [4] of the target, see `rpd.envs.privileged_state.ManipulationState`."""


class TabletopTask:
    """A task of the tabletop, its current episode, and whether it has been solved.

    Attributes:
        task: the task.
        robot: description of the arm.
        half: half the edge of a cube, m.
        tracked: names of the state entries that a simulator provides, in order.
        start: start of the episode.

    Raises:
        ConfigError: a task that the simulator does not have, or a robot with delayed commands.
    """

    def __init__(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        name = setup.task.removeprefix(PREFIX)
        if name not in tasks:
            raise ConfigError(f"no task {setup.task}: it has {', '.join(PREFIX + known for known in tasks)}")
        self.task, self.robot = TASKS[name], ROBOTS[setup.robot]
        if self.robot.delay:
            raise ConfigError(
                f"robot {self.robot.name} has a command delay, which deployment does not simulate: choose another"
            )
        self.half = self.task.half(self.robot)
        self._all = not setup.viewpoints  # a policy that sees images has no tracked objects
        names = state_names(self.robot, self._all, self.task.aerial, self.task.oriented)
        self.tracked = tuple(name for name in names if name.startswith(TRACKED))
        self.start: EpisodeStart = draw(np.array([0]), self.task, self.robot)
        self._solved = False
        self._before: Array = np.zeros(3)

    @property
    def instruction(self) -> str:
        """Language instruction of the episode."""
        return instruction(self.task, self.start.names[0])

    def begin(self, seed: int) -> EpisodeStart:
        """Start the episode of a seed; returns its start, K = 1. `started` follows, with the first poses."""
        self.start = draw(np.array([seed]), self.task, self.robot)
        self._solved = False
        return self.start

    def started(self, scene: Scene) -> None:
        """Receive the first poses of an episode."""
        self._before = scene.tcp

    def check(self, scene: Scene) -> None:
        """Check success at the end of a control step of 50 ms."""
        speed = float(np.linalg.norm(scene.tcp - self._before)) / CONTROL_PERIOD
        self._before = scene.tcp
        (position, quat), (target, target_quat) = scene.object, scene.target
        frame = Frame(
            tcp=_batch(scene.tcp),
            tcp_speed=np.array([speed]),
            opening=np.array([scene.opening]),
            grasped=observations.grasped(self._pressing(scene)),
            object=_batch(position),
            object_speed=np.array([scene.object_speed]),
            target=_batch(target),
            turn=np.array([kinematics.yaw(quat) - kinematics.yaw(target_quat)]),
            half=self.half,
        )
        self._solved |= bool(self.task.success(frame)[0])

    def measure(self, scene: Scene) -> Measurement:
        """The measurement of a scene."""
        pressing = self._pressing(scene)
        rows = {
            "tcp_pos": scene.tcp,
            "tcp_quat": kinematics.mat_to_quat(scene.hand),
            "gripper": np.array([scene.opening]),
            "object_pos": scene.object[0],
            "object_quat": scene.object[1],
            "object_half_size": np.array([self.half]),
            "target_pos": scene.target[0],
            "target_quat": scene.target[1],
            "grasped": observations.grasped(pressing),
        }
        privileged = observations.privileged_state(**{name: value[None] for name, value in rows.items()})
        entries = observations.tracked_entries(
            privileged, pressing, (scene.target[0] - scene.tcp)[None], self._all, self.task.aerial, self.task.oriented
        )
        values = entries[0].astype(np.float32).tolist()
        return Measurement(
            joints=scene.joints,
            velocities=scene.velocities,
            opening=scene.opening,
            tracked=dict(zip(self.tracked, values, strict=True)),
            privileged=privileged[0].numpy(),
            success=self._solved,
        )

    def _pressing(self, scene: Scene) -> Array:
        """[1, 2] whether each finger presses on the object."""
        if not self.task.has_object:
            return np.zeros((1, 2), dtype=bool)
        return observations.fingers_pressing(scene.finger_forces[None], scene.hand[None])


def _batch(row: Array) -> NDArray[np.float64]:
    return row.astype(np.float64)[None]
