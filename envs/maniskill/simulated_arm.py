"""A ManiSkill robot for deployment: SAPIEN's physics, ManiSkill's joint controllers and cameras, a task of the tabletop."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from rpd.envs.control.kinematics import Array, quat_to_mat
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.live.base import Measurement, Setup
from rpd.envs.live.tabletop_task import Scene, TabletopTask
from rpd.envs.maniskill.bodies import BODIES, Body, agent
from rpd.envs.rendering.vulkan import render_settings
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import Viewpoint
from rpd.envs.tabletop.camera_poses import cameras
from rpd.envs.tabletop.env import DEFAULT_IMAGE_SIZE
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD
from rpd.envs.tabletop.tasks import COLORS

TASKS = ("Reach", "PickCube", "PushCube", "PullCube", "StackCube", "PlaceInBin")
"""Tasks of the tabletop; PushT's block, made of cubes, is not built here."""
OPTIONS = ("finger_speed", "stiffness", "damping")
"""Options: speed of each finger, m/s, and gains of the arm's joints, N m/rad and N m s/rad; default: ManiSkill's own."""
_PALETTE = list(COLORS.values())


class LiveManiSkill:
    """A task of the tabletop with ManiSkill's robot, stepped by 10 ms; see `rpd.envs.live.base.LiveRobot`.

    Joint positions go to ManiSkill's controller ``pd_joint_pos``, with its gains. Every episode starts in a new scene.

    Raises:
        ConfigError: ManiSkill or a Vulkan device is missing, or there is no such arm, task or option.
    """

    def __init__(self, setup: Setup) -> None:
        if importlib.util.find_spec("mani_skill") is None:
            raise missing_package("its simulation", "mani-skill", "maniskill")
        if setup.robot not in BODIES:
            raise ConfigError(f"no arm {setup.robot}: it has {', '.join(BODIES)}")
        setup.check_options(OPTIONS)
        self._options = setup.options
        self._task, self._body = TabletopTask(setup, TASKS), BODIES[setup.robot]
        self.joints, self.tracked = ROBOTS[setup.robot].joints, self._task.tracked
        render_backend, environment = render_settings()
        os.environ.update(environment)
        self._scene = _scene(setup, self._body, self._task, render_backend)
        self.timestep = 1 / self._scene.sim_freq
        self._steps_per_check, self._steps = round(CONTROL_PERIOD / self.timestep), 0
        self._goal: tuple[Array, float] = (np.zeros(0), 1.0)
        self._opening = 1.0  # goal of the fingers on the way to that of `_goal`

    @property
    def instruction(self) -> str:
        """See `LiveRobot`."""
        return self._task.instruction

    def begin(self, seed: int) -> None:
        """See `LiveRobot`."""
        from mani_skill.utils.structs.pose import Pose

        from rpd.envs.maniskill.tabletop_scene import BASE

        start, scene = self._task.begin(seed), self._scene
        _, thing, target = start.names[0]
        scene.colors = _PALETTE[thing], _PALETTE[target]
        scene.rebuild()
        scene.agent.reset(np.append(start.joints[0], self._body.open_joints)[None])
        scene.agent.controller.reset()
        self._set_gains()
        place, turns = start.placement, self._task.task.marker == "cube"  # as in the tabletop, other goals do not turn
        for actor, position, yaw in (
            (scene.object, place.object[0], place.object_yaw[0]),
            (scene.target, place.target[0], place.target_yaw[0] if turns else 0.0),
        ):
            if actor is not None:
                quat = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
                actor.set_pose(Pose.create_from_pq(p=BASE + position, q=quat))
        self._steps, self._opening = 0, 1.0
        self.drive(start.joints[0], 1.0)
        self._task.started(self._measured())

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """See `LiveRobot`."""
        self._goal = joints, self._goal[1] if opening is None else opening

    def advance(self) -> None:
        """See `LiveRobot`."""
        joints, opening = self._goal
        step = 2 * self._options.get("finger_speed", np.inf) * self.timestep / self._task.robot.opening
        self._opening += np.clip(opening - self._opening, -step, step)
        self._scene.agent.set_action(_tensor(np.append(joints, self._body.grip(self._opening))))
        self._scene.agent.before_simulation_step()
        self._scene.scene.step()
        self._steps += 1
        if self._steps % self._steps_per_check == 0:
            self._task.check(self._measured())

    def sense(self) -> Measurement:
        """See `LiveRobot`."""
        return self._task.measure(self._measured())

    def picture(self, camera: str) -> np.ndarray:
        """See `LiveRobot`."""
        stage = self._scene.scene
        stage.update_render(update_sensors=True, update_human_render_cameras=False)
        sensor = stage.sensors[camera]
        sensor.capture()
        image = sensor.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"]
        return image[0].cpu().numpy()

    def close(self) -> None:
        """See `LiveRobot`."""
        self._scene.close()

    def _set_gains(self) -> None:
        """Set the gains of the arm's joints, if any are given."""
        arm = self._scene.agent.controller.controllers["arm"]
        for name in ("stiffness", "damping"):
            if name in self._options:
                setattr(arm.config, name, self._options[name])
                arm.set_drive_property()

    def _measured(self) -> Scene:
        """Poses in the frame of the robot's base, which is the world's but for its place."""
        from rpd.envs.maniskill.tabletop_scene import BASE

        scene, body, count = self._scene, self._body, len(self.joints)
        robot = scene.agent.robot
        positions, velocities = _row(robot.qpos), _row(robot.qvel)
        tool = robot.links_map[body.tool].pose
        target = _row(scene.target.pose.p) - BASE, _row(scene.target.pose.q)
        object_pose, speed, forces = target, 0.0, np.zeros((2, 3))
        if scene.object is not None:
            object_pose = _row(scene.object.pose.p) - BASE, _row(scene.object.pose.q)
            speed = float(np.linalg.norm(_row(scene.object.linear_velocity)))
            forces = np.stack(
                [
                    -_row(scene.scene.get_pairwise_contact_forces(robot.links_map[finger], scene.object))
                    for finger in body.fingers
                ]
            )  # of the fingers on the object; ManiSkill gives that of the object on the finger
        return Scene(
            joints=positions[:count],
            velocities=velocities[:count],
            tcp=_row(tool.p) - BASE,
            hand=quat_to_mat(_row(tool.q)),
            opening=body.opening(robot),
            finger_forces=forces,
            object=object_pose,
            object_speed=speed,
            target=target,
        )


def _scene(setup: Setup, body: Body, task: TabletopTask, render_backend: str) -> Any:
    from rpd.envs.maniskill import tasks
    from rpd.envs.maniskill.tabletop_scene import TabletopScene

    tasks.check_assets("", body.uid)
    own = {name: camera.viewpoint for name, camera in cameras(task.robot).items()}
    views: dict[str, Viewpoint] = {name: view or own[name] for name, view in setup.viewpoints.items()}
    size = setup.image_size or DEFAULT_IMAGE_SIZE
    return TabletopScene(agent(body), body.tool, task.task, task.robot, views, size, render_backend)


def _row(values: Any) -> Array:
    """The first row of a tensor [1, d]."""
    return values[0].cpu().numpy().astype(np.float64)


def _tensor(action: Array) -> Any:
    import torch

    return torch.as_tensor(action, dtype=torch.float32)[None]
