"""MuJoCo model of an arm among obstacles, and bounds on how fast its joints move its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rpd.envs.robots import Robot

Array = NDArray[np.floating]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Ranges of x, y and z, base frame, m."""

TABLE = "the table"


@dataclass(frozen=True)
class Part:
    """A shape of the model."""

    name: str
    """Name for messages, e.g. ``link 3``."""
    joint: int
    """Number of the last joint that moves it, from 1; 0: none."""
    reach: Array
    """[n] m/rad: upper bound of the speed of its points per speed of each joint."""


def build(robot: Robot, boxes: Mapping[str, Box]) -> mujoco.MjModel:
    """Compile the arm on the table, the plane z = 0, with boxes; each finger is a box that contains it closed and open."""
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name=TABLE, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    for name, ranges in boxes.items():
        low, high = np.array(ranges).T
        spec.worldbody.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=(low + high) / 2, size=(high - low) / 2)
    robot.attach(spec)
    for joint, geom in zip(robot.fingers, robot.finger_geoms, strict=True):
        finger, slide = spec.geom(geom), spec.joint(joint)
        closed, opened = slide.range
        finger.pos = finger.pos + (closed + opened) / 2 * slide.axis
        finger.size = finger.size + (opened - closed) / 2 * np.abs(slide.axis)
    return spec.compile()


def parts(model: mujoco.MjModel, robot: Robot) -> list[Part]:
    """Parts of a model from `build`, by number of the geom."""
    joints = {int(model.joint(name).bodyid[0]): i for i, name in enumerate(robot.joints, 1)}
    return [_part(model, geom, joints, robot) for geom in range(model.ngeom)]


def _part(model: mujoco.MjModel, geom: int, joints: Mapping[int, int], robot: Robot) -> Part:
    """Part of a geom, with the numbers of the joints by body."""
    body = int(model.geom_bodyid[geom])
    far = float(model.geom_rbound[geom] + np.linalg.norm(model.geom_pos[geom]))  # from the body's origin
    reach, last = np.zeros(len(joints)), 0
    while body:
        if body in joints:
            last = max(last, joints[body])
            reach[joints[body] - 1] = far
        far += float(np.linalg.norm(model.body_pos[body]))
        body = int(model.body_parentid[body])
    return Part(_name(model, geom, last, robot), last, reach)


def _name(model: mujoco.MjModel, geom: int, joint: int, robot: Robot) -> str:
    body, name = model.body(model.geom_bodyid[geom]).name, model.geom(geom).name
    if body == "world":
        return name if name == TABLE else f"the box '{name}'"
    if body in ("base", "hand"):
        return f"the {body}"
    return "a finger" if name in robot.finger_geoms else f"link {joint}"
