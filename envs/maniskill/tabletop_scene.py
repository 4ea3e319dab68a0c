"""Scene of a tabletop task in ManiSkill: ManiSkill's robot, table, light and physics; the tabletop's cubes, goals and places.

Materials and density are ManiSkill's defaults, as in its own tasks with cubes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sapien
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils.scene_builder.table import TableSceneBuilder

from rpd.envs.control.kinematics import mat_to_quat
from rpd.envs.robots import Robot
from rpd.envs.specs import Viewpoint
from rpd.envs.tabletop.mjcf import GREEN
from rpd.envs.tabletop.tasks import Task
from rpd.envs.tabletop.tasks.grasp import BIN_HALF_IN_CUBES, BIN_HEIGHT_IN_CUBES, BIN_WALL
from rpd.envs.tabletop.tasks.slide import GOAL_RADIUS_IN_CUBES

BASE = np.array([-0.615, 0.0, 0.0])
"""Place of the robot's base on ManiSkill's table, m, as in its tasks with cubes; it faces +x."""
_FROM_IMAGE = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Directions right, down and into the image in SAPIEN's camera axes (into the image, left, up), as columns of its transpose."""
_UP = sapien.Pose(q=[0.5**0.5, 0, -(0.5**0.5), 0])  # SAPIEN's cylinders lie along x

Color = tuple[float, float, float]


class TabletopScene(BaseEnv):
    """A scene of one environment, without actions, observations or reward of its own.

    Args:
        uid: ManiSkill's robot.
        tool: its link of the tool center point.
        task: the task.
        robot: description of the same robot, for the sizes of the task.
        viewpoints: cameras by name.
        image_size: height and width of their images, pixels.
        render_backend: as named by ManiSkill.
    """

    def __init__(
        self,
        uid: str,
        tool: str,
        task: Task,
        robot: Robot,
        viewpoints: Mapping[str, Viewpoint],
        image_size: int,
        render_backend: str,
    ) -> None:
        self._tool, self._task, self._half = tool, task, task.half(robot)
        self._viewpoints, self._image_size = viewpoints, image_size
        self.colors: tuple[Color, Color] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        """Colors of the object and of the target cube in the next episode."""
        super().__init__(
            robot_uids=uid, control_mode="pd_joint_pos", obs_mode="none", reward_mode="none", sim_backend="physx_cpu",
            render_backend=render_backend,
        )  # fmt: skip

    def rebuild(self) -> None:
        """Build everything again: PhysX keeps contact caches, and an episode would depend on earlier ones."""
        self.reset(seed=0, options={"reconfigure": True})

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=BASE))

    def _load_scene(self, options: dict[str, Any]) -> None:
        TableSceneBuilder(self).build()
        task, half = self._task, self._half
        self.object = self._cube("object", self.colors[0]) if task.has_object else None
        self.target = self._cube("target", self.colors[1]) if task.marker == "cube" else self._marker(task.marker, half)

    def _cube(self, name: str, color: Color) -> Any:
        builder = self._builder()
        builder.add_box_collision(half_size=[self._half] * 3)
        builder.add_box_visual(half_size=[self._half] * 3, material=_paint(color))
        return builder.build(name=name)

    def _marker(self, kind: str, half: float) -> Any:
        """The goal: a ball or a disc, which touches nothing, or a bin."""
        builder, green = self._builder(), _paint(GREEN)
        if kind == "ball":
            builder.add_sphere_visual(radius=0.8 * half, material=green)
        elif kind == "disc":
            # Below its target point, which is at the height of the cube's center.
            place = sapien.Pose(p=[0, 0, 0.001 - half]) * _UP
            builder.add_cylinder_visual(pose=place, radius=GOAL_RADIUS_IN_CUBES * half, half_length=0.001, material=green)
        else:
            inner, height = BIN_HALF_IN_CUBES * half, BIN_HEIGHT_IN_CUBES * half
            for sign in (-1, 1):
                for place, size in (
                    ((sign * (inner + BIN_WALL), 0, height), (BIN_WALL, inner + 2 * BIN_WALL, height)),
                    ((0, sign * (inner + BIN_WALL), height), (inner + 2 * BIN_WALL, BIN_WALL, height)),
                ):
                    builder.add_box_collision(pose=sapien.Pose(p=place), half_size=size)
                    builder.add_box_visual(pose=sapien.Pose(p=place), half_size=size, material=green)
        return builder.build_kinematic(name="target")

    def _builder(self) -> Any:
        builder = self.scene.create_actor_builder()
        builder.set_initial_pose(sapien.Pose(p=[0, 0, 2]))  # above everything; placed when the episode starts
        return builder

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        size, tool = self._image_size, self.agent.robot.links_map[self._tool]
        return [
            CameraConfig(name, _pose(view), size, size, view.fov, mount=tool if view.mounted else None)
            for name, view in self._viewpoints.items()
        ]


def _pose(view: Viewpoint) -> sapien.Pose:
    """Pose of a camera, in the world or in the frame of the tool, in SAPIEN's axes."""
    place = np.array(view.position) + (0 if view.mounted else BASE)
    return sapien.Pose(p=place, q=mat_to_quat(np.array(view.rotation) @ _FROM_IMAGE))


def _paint(color: Color) -> sapien.render.RenderMaterial:
    return sapien.render.RenderMaterial(base_color=[*color, 1.0])
