"""Model of a tabletop task in robosuite: its robot, gripper and table, and the tabletop's cubes, goals and cameras."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import numpy as np
from robosuite.controllers import load_controller_config
from robosuite.models.arenas import TableArena
from robosuite.models.objects import BallObject, BoxObject, CylinderObject, MujocoObject
from robosuite.models.tasks import ManipulationTask
from robosuite.robots import SingleArm
from robosuite.utils.binding_utils import MjSim

from rpd.envs.control.kinematics import mat_to_quat
from rpd.envs.robots import Robot
from rpd.envs.specs import Viewpoint
from rpd.envs.tabletop.mjcf import GREEN
from rpd.envs.tabletop.tasks import Task
from rpd.envs.tabletop.tasks.slide import GOAL_RADIUS_IN_CUBES

BASE = np.array([0.0, 0.0, 0.8])
"""Place of the robot's base, on the table, m; it faces +x."""
_TABLE = (1.6, 1.6, 0.05)  # m
_LEAD = 0.0069
"""Distance of the tabletop's tool center point from robosuite's along the tool, m."""
_HAND = "gripper0_eef"
_FROM_IMAGE = np.diag([1.0, -1.0, -1.0])  # MuJoCo's camera axes: right, up, back


def build(kind: str, task: Task, robot: Robot, options: Mapping[str, float], views: Mapping[str, Viewpoint]) -> tuple[Any, Any]:
    """Compile the model.

    Args:
        kind: robosuite's robot.
        task: the task.
        robot: description of the same robot, for the sizes of the task.
        options: replace entries of robosuite's controller JOINT_POSITION.
        views: cameras by name.

    Returns:
        robosuite's simulation and robot.
    """
    controller = {**load_controller_config(default_controller="JOINT_POSITION"), **options}
    arm = SingleArm(robot_type=kind, idn=0, controller_config=controller, mount_type=None, control_freq=20)
    arm.load_model()
    arm.robot_model.set_base_xpos(BASE)
    arena = TableArena(table_full_size=_TABLE, table_offset=(0.4, 0.0, BASE[2]))
    things = ([_cube("object", task.half(robot))] if task.has_object else []) + [_goal(task, task.half(robot))]
    model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[arm.robot_model], mujoco_objects=things)
    root = ElementTree.fromstring(model.get_xml())
    for name, view in views.items():
        _add_camera(root, name, view)
    sim = MjSim.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    sim.forward()
    arm.reset_sim(sim)
    arm.setup_references()
    return sim, arm


def _cube(name: str, half: float) -> MujocoObject:
    return BoxObject(name=name, size=[half] * 3, rgba=[0.5, 0.5, 0.5, 1])


def _goal(task: Task, half: float) -> MujocoObject:
    """A second cube, or a ball or a disc that touches nothing."""
    paint: dict[str, Any] = {"rgba": [*GREEN, 1], "obj_type": "visual", "joints": None}
    if task.marker == "cube":
        return _cube("target", half)
    if task.marker == "ball":
        return BallObject(name="target", size=[0.8 * half], **paint)
    return CylinderObject(name="target", size=[GOAL_RADIUS_IN_CUBES * half, 0.001], **paint)


def _add_camera(root: ElementTree.Element, name: str, view: Viewpoint) -> None:
    """Add a camera to the world, or to the hand: the tool's frame, turned by a quarter about z, nearer to the flange."""
    parent = root.find("worldbody")
    place, turn = np.array(view.position) + BASE, np.array(view.rotation)
    if view.mounted:
        parent = root.find(f".//body[@name='{_HAND}']")
        quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        place, turn = quarter @ np.array(view.position) + [0.0, 0.0, _LEAD], quarter @ turn
    assert parent is not None
    quat = mat_to_quat(turn @ _FROM_IMAGE)
    pos, orientation = (" ".join(f"{x:.8g}" for x in values) for values in (place, quat))
    fovy = f"{np.degrees(view.fov):.6g}"
    ElementTree.SubElement(parent, "camera", name=name, mode="fixed", fovy=fovy, pos=pos, quat=orientation)
