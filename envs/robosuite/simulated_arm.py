"""A robosuite robot for deployment: its MJCF, its joint controller and its gripper, a task of the tabletop."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from rpd.envs.control.arm import Arm
from rpd.envs.control.kinematics import Array
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.libero.cameras import Camera
from rpd.envs.libero.controller import modernize
from rpd.envs.live.base import Measurement, Setup
from rpd.envs.live.tabletop_task import Scene, TabletopTask
from rpd.envs.rendering.opengl import platform
from rpd.envs.robosuite import headless
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.camera_poses import cameras
from rpd.envs.tabletop.env import DEFAULT_IMAGE_SIZE
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD, TIMESTEP
from rpd.envs.tabletop.tasks import COLORS

TASKS = ("Reach", "PickCube", "PushCube", "PullCube", "StackCube")
OPTIONS = ("kp", "damping_ratio")
"""Options: gain, 1/s^2, and damping ratio of robosuite's joint controller; default: its own, 50 and 1."""
_PALETTE = list(COLORS.values())


@dataclass(frozen=True)
class Body:
    """A robot of robosuite with the kinematics of one of `rpd.envs.robots`."""

    kind: str
    """Its name in robosuite."""
    fingers: tuple[str, str]
    """Names of its fingers in robosuite: the one on the side of +y of the tool, and the other."""
    pads: tuple[str, str]
    """Geoms whose distance is the opening."""
    closed: float
    """Their distance when closed, m."""
    opening: float
    """Change of their distance from closed to open, m."""
    open_joints: tuple[float, ...]
    """Positions of the gripper's joints when open."""


BODIES = {
    "panda": Body(
        "Panda", ("left_finger", "right_finger"),
        ("gripper0_finger1_pad_collision", "gripper0_finger2_pad_collision"), 0.007, 0.08, (0.04, -0.04),
    ),
}  # fmt: skip
"""By the name of the robot in `rpd.envs.robots`. robosuite 1.4 has a UR5e with the tabletop's kinematics, too, but the joints
of its Robotiq gripper leave their ranges with this version of MuJoCo."""


class LiveRobosuite:
    """A task of the tabletop with robosuite's robot, stepped by 10 ms; see `rpd.envs.live.base.LiveRobot`.

    Joint positions are absolute goals of robosuite's controller ``JOINT_POSITION``, with its gains.

    Raises:
        ConfigError: robosuite is missing, or there is no such arm, task or option.
    """

    timestep = TIMESTEP

    def __init__(self, setup: Setup) -> None:
        if importlib.util.find_spec("robosuite") is None:
            raise missing_package("its simulation", "robosuite", "robosuite")
        if setup.robot not in BODIES:
            raise ConfigError(f"no arm {setup.robot}: it has {', '.join(BODIES)}")
        setup.check_options(OPTIONS)
        self._task, self._body = TabletopTask(setup, TASKS), BODIES[setup.robot]
        self.joints, self.tracked = ROBOTS[setup.robot].joints, self._task.tracked
        headless.prepare()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # remarks on its settings
            from rpd.envs.robosuite import model

        modernize()
        own = {name: camera.viewpoint for name, camera in cameras(self._task.robot).items()}
        views = {name: view or own[name] for name, view in setup.viewpoints.items()}
        self._sim, self._robot = model.build(self._body.kind, self._task.task, self._task.robot, setup.options, views)
        self._base, self._kinematics = model.BASE, Arm(self._task.robot)
        self._model, self._data = self._sim.model._model, self._sim.data._data
        self._model.site_rgba[:, 3] = 0.0  # marks of the tool, in every image
        self._substeps = round(TIMESTEP / self._model.opt.timestep)
        self._ticks, self._close = 0, False
        self._size = setup.image_size or DEFAULT_IMAGE_SIZE
        self._renderer: Camera | None = None
        names = self._robot.gripper.important_geoms
        self._fingers = [self._geoms(names[finger]) for finger in self._body.fingers]
        self._object = self._geoms_of("object_main") if self._task.task.has_object else np.zeros(0, dtype=np.int64)

    @property
    def instruction(self) -> str:
        """See `LiveRobot`."""
        return self._task.instruction

    def begin(self, seed: int) -> None:
        """See `LiveRobot`."""
        start, data, robot = self._task.begin(seed), self._data, self._robot
        mujoco.mj_resetData(self._model, data)
        robot.reset(deterministic=True)
        data.qpos[robot._ref_joint_pos_indexes] = start.joints[0]
        data.qpos[robot._ref_gripper_joint_pos_indexes] = self._body.open_joints
        place, (_, thing, target) = start.placement, start.names[0]
        if self._object.size:
            self._put("object", place.object[0], place.object_yaw[0], thing)
        if self._task.task.marker == "cube":
            self._put("target", place.target[0], place.target_yaw[0], target)
        else:
            flat = self._task.task.marker == "disc"  # below its target point, which is at the height of the cube's center
            low = [0, 0, self._task.half - 0.001] if flat else [0, 0, 0]
            self._model.body("target_main").pos = self._base + place.target[0] - low
        self._goal_place = place.target[0]
        self._sim.forward()
        self._open_gripper()
        self._ticks = 0
        self.drive(start.joints[0], 1.0)
        self._task.started(self._measured())

    def drive(self, joints: np.ndarray, opening: float | None) -> None:
        """See `LiveRobot`; the gripper is opened or closed."""
        self._robot.controller.set_goal(np.zeros(len(joints)), set_qpos=np.array(joints))
        if opening is not None:
            self._close = opening < 0.5

    def advance(self) -> None:
        """See `LiveRobot`."""
        robot = self._robot
        for _ in range(self._substeps):
            torques = robot.controller.run_controller()
            self._data.ctrl[robot._ref_joint_actuator_indexes] = np.clip(torques, *robot.torque_limits)
            robot.grip_action(gripper=robot.gripper, gripper_action=[1.0 if self._close else -1.0])
            mujoco.mj_step(self._model, self._data)
        mujoco.mj_forward(self._model, self._data)
        self._ticks += 1
        if self._ticks % round(CONTROL_PERIOD / TIMESTEP) == 0:
            self._task.check(self._measured())

    def sense(self) -> Measurement:
        """See `LiveRobot`."""
        return self._task.measure(self._measured())

    def picture(self, camera: str) -> np.ndarray:
        """See `LiveRobot`."""
        if self._renderer is None:
            self._renderer = Camera(self._model, platform(), "stock", self._size)
        return np.ascontiguousarray(self._renderer.render(self._data, camera, self._size)[:, ::-1])  # it mirrors, as LIBERO

    def close(self) -> None:
        """See `LiveRobot`."""

    def _open_gripper(self) -> None:
        """Set robosuite's gripper command, which moves by steps, to open."""
        for _ in range(round(2 / self._robot.gripper.speed)):
            self._robot.gripper.format_action(np.array([-1.0]))

    def _put(self, name: str, position: Array, yaw: float, color: int) -> None:
        """Place and color a cube."""
        quat = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self._data.joint(f"{name}_joint0").qpos = [*(self._base + position), *quat]
        self._model.geom_rgba[self._geoms_of(f"{name}_main"), :3] = _PALETTE[color]

    def _geoms(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._model.geom(name).id for name in names])

    def _geoms_of(self, body: str) -> np.ndarray:
        return np.flatnonzero(self._model.geom_bodyid == self._model.body(body).id)

    def _measured(self) -> Scene:
        """Poses in the frame of the robot's base; that of the tool by the kinematics of the arm."""
        data, robot = self._data, self._robot
        joints = data.qpos[robot._ref_joint_pos_indexes].copy()
        tcp, hand = (x[0] for x in self._kinematics.forward(joints[None]))
        marker = self._task.task.marker
        target = self._pose("target") if marker == "cube" else (self._goal_place, np.array([1.0, 0, 0, 0]))
        thing = self._pose("object") if self._object.size else target
        speed = np.linalg.norm(data.joint("object_joint0").qvel[:3]) if self._object.size else 0.0
        pads = [data.geom(pad).xpos for pad in self._body.pads]
        gap = np.linalg.norm(pads[0] - pads[1]) - self._body.closed
        return Scene(
            joints=joints,
            velocities=data.qvel[robot._ref_joint_vel_indexes].copy(),
            tcp=tcp,
            hand=hand,
            opening=float(gap / self._body.opening),
            finger_forces=np.stack([self._force(finger) for finger in self._fingers]),
            object=thing,
            object_speed=float(speed),
            target=target,
        )

    def _pose(self, name: str) -> tuple[Array, Array]:
        pose = self._data.joint(f"{name}_joint0").qpos
        return pose[:3] - self._base, pose[3:].copy()

    def _force(self, finger: np.ndarray) -> Array:
        """Force [3] of a finger on the object, N."""
        total, wrench = np.zeros(3), np.zeros(6)
        for i, contact in enumerate(self._data.contact[: self._data.ncon]):
            first, second = contact.geom
            presses = first in finger and second in self._object
            if presses or (second in finger and first in self._object):
                mujoco.mj_contactForce(self._model, self._data, i, wrench)
                # Of the first geom on the second, in the contact's frame, whose axes are the rows.
                force = contact.frame.reshape(3, 3).T @ wrench[:3]
                total += force if presses else -force
        return total
