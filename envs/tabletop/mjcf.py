"""MuJoCo model of a task: table, robot, object, and target marker."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rpd.envs import pusht
from rpd.envs.robots import Robot
from rpd.envs.tabletop.camera import HIDDEN_GROUP, mark_static
from rpd.envs.tabletop.tasks import Task
from rpd.envs.tabletop.tasks.grasp import BIN_HALF_IN_CUBES, BIN_HEIGHT_IN_CUBES, BIN_WALL
from rpd.envs.tabletop.tasks.slide import GOAL_RADIUS_IN_CUBES

Vector = NDArray[np.floating]

TIMESTEP = 0.01  # s
SUBSTEPS = 5  # per control step: 20 Hz
CONTROL_PERIOD = TIMESTEP * SUBSTEPS
GREEN = (0.20, 0.70, 0.30)

# What touches is a plane at the top of the visible table: testing links of an arm against a box costs three times as much.
_SCENE = """
<mujoco model="tabletop">
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic">
    <flag autoreset="disable"/>
  </option>
  <size memory="2M"/>
  <worldbody>
    <geom name="table" type="box" pos="{table_x} 0 -0.025" size="{table_dx} {table_dy} 0.025"
          rgba="0.72 0.66 0.58 1" contype="0" conaffinity="0"/>
    <geom name="surface" type="plane" pos="{table_x} 0 0" size="{table_dx} {table_dy} 0.05" group="{hidden}"
          friction="0.6 0.005 0.0001"/>
    {obstacles}
    {object}
    {target}
  </worldbody>
  <sensor>{sensors}</sensor>
</mujoco>
"""

MASS = 0.05  # mass of the object, kg
_THING = '<body name="{name}" pos="{x} 0 {half}"><freejoint name="{name}"/>{boxes}</body>'
_BOX = """
<geom type="box" pos="{x} 0 0" size="{dx} {dy} {half}" mass="{mass}" friction="1 0.005 0.0001" condim="{condim}"
      rgba="0.8 0.15 0.13 1"/>
"""
_MARKER = '<body name="target" mocap="true">{geoms}</body>'
_OBSTACLE = '<geom name="obstacle{number}" type="box" pos="{pos}" size="{size}" rgba="0.45 0.45 0.5 1"/>'
_PAINT = '<geom {shape} contype="0" conaffinity="0" rgba="{rgba}"/>'


@dataclass(frozen=True)
class World:
    """A compiled model and the addresses read by the environment.

    Attributes:
        model: the MuJoCo model.
        tcp: index of the TCP site.
        tcp_body: body of the TCP site.
        arm: qpos addresses of the arm joints.
        arm_dofs: qvel addresses of the arm joints.
        fingers: qpos addresses of the two fingers.
        object_qpos: address of the object's free joint in qpos, or None.
        object_qvel: address of the object's free joint in qvel, or None.
        target_qpos: address of the target cube's free joint, or None if the target is a mocap body.
        near: number of sensors of the arm's distance: from the table, from itself, and from every obstacle.
        half: half the edge of a cube, m.
        oriented: whether the object has to match the target's orientation.
        object_geoms: geoms with the object's color.
        target_geoms: geoms with the target's color.
    """

    model: mujoco.MjModel
    tcp: int
    tcp_body: int
    arm: np.ndarray
    arm_dofs: np.ndarray
    fingers: np.ndarray
    object_qpos: int | None
    object_qvel: int | None
    target_qpos: int | None
    target_qvel: int | None
    near: int
    half: float
    oriented: bool
    object_geoms: np.ndarray
    target_geoms: np.ndarray


def build(task: Task, robot: Robot, contacts: bool = True, obstacles: tuple[Vector, Vector] | None = None) -> World:
    """Compile the model of a task for a robot.

    Args:
        task: the task.
        robot: the robot.
        contacts: see `Robot.attach`.
        obstacles: lowest and highest corners [B, 3] of boxes that the arm must not touch, m.
    """
    half = task.half(robot)
    (x0, _), (x1, _) = robot.workspace
    middle = (x0 + x1) / 2
    pressing = "".join(
        f'<contact geom1="{finger}" body2="object" data="force" reduce="netforce" num="1"/>' for finger in robot.finger_geoms
    )
    boxes = [] if obstacles is None else list(zip(*obstacles, strict=True))
    others = [("near_table", 'geom2="surface"'), ("near_itself", f'subtree2="{robot.root}"')]
    others += [(f"near_obstacle{number}", f'geom2="obstacle{number}"') for number in range(len(boxes))]
    near = "".join(
        f'<contact name="{name}" subtree1="{robot.root}" {other} data="found dist" reduce="mindist" num="1"/>'
        for name, other in others
    )
    spec = mujoco.MjSpec.from_string(
        _SCENE.format(
            timestep=TIMESTEP,
            hidden=HIDDEN_GROUP,
            table_x=middle,
            table_dx=(x1 - x0) / 2 + 0.35,
            table_dy=robot.workspace[1][1] + 0.35,
            obstacles="".join(_obstacle(number, low, high) for number, (low, high) in enumerate(boxes)),
            object=_thing(task, half, middle),
            target=_target(task, half, middle),
            sensors=near + (pressing if task.has_object else ""),
        )
    )
    robot.attach(spec, contacts)
    model = spec.compile()
    mark_static(model)
    site = model.site(robot.tcp_site)
    free = {model.joint(j).name: model.joint(j) for j in range(model.njnt) if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE}
    cube, other = free.get("object"), free.get("target")
    return World(
        model=model,
        tcp=site.id,
        tcp_body=int(model.site_bodyid[site.id]),
        arm=np.array([model.joint(j).qposadr[0] for j in robot.joints]),
        arm_dofs=np.array([model.joint(j).dofadr[0] for j in robot.joints]),
        fingers=np.array([model.joint(j).qposadr[0] for j in robot.fingers]),
        object_qpos=None if cube is None else int(cube.qposadr[0]),
        object_qvel=None if cube is None else int(cube.dofadr[0]),
        target_qpos=None if other is None else int(other.qposadr[0]),
        target_qvel=None if other is None else int(other.dofadr[0]),
        near=len(others),
        half=half,
        oriented=task.oriented,
        object_geoms=_geoms_of(model, "object"),
        target_geoms=_geoms_of(model, "target"),
    )


def _obstacle(number: int, low: Vector, high: Vector) -> str:
    pos, size = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
    return _OBSTACLE.format(number=number, pos=" ".join(map(str, pos)), size=" ".join(map(str, size)))


def _thing(task: Task, half: float, x: float) -> str:
    if task.thing is None:
        return ""
    if task.thing == "cube":
        return _cube("object", half, x)
    boxes = "".join(
        _BOX.format(x=px * half, dx=dx * half, dy=dy * half, half=half, mass=MASS * 4 * dx * dy / pusht.AREA, condim=3)
        for (px, _), (dx, dy) in (pusht.BAR, pusht.STEM)
    )
    return _THING.format(name="object", x=x, half=half, boxes=boxes)


def _cube(name: str, half: float, x: float) -> str:
    return _THING.format(name=name, x=x, half=half, boxes=_BOX.format(x=0, dx=half, dy=half, half=half, mass=MASS, condim=4))


def _target(task: Task, half: float, x: float) -> str:
    green = " ".join(map(str, (*GREEN, 1)))

    def paint(shape: str) -> str:
        return _PAINT.format(shape=shape, rgba=green)

    # Markers on the table are half a cube below their target point, which is at the height of the cube's center.
    on_table = 0.001 - half
    if task.marker == "cube":
        return _cube("target", half, x + 5 * half)
    if task.marker == "ball":
        return _MARKER.format(geoms=paint(f'type="sphere" size="{0.8 * half}"'))
    if task.marker == "disc":
        return _MARKER.format(geoms=paint(f'type="cylinder" size="{GOAL_RADIUS_IN_CUBES * half} 0.001" pos="0 0 {on_table}"'))
    if task.marker == "tee":
        boxes = (
            paint(f'type="box" pos="{px * half} 0 {on_table}" size="{dx * half} {dy * half} 0.001"')
            for (px, _), (dx, dy) in (pusht.BAR, pusht.STEM)
        )
        return _MARKER.format(geoms="".join(boxes))
    inner, wall, height = BIN_HALF_IN_CUBES * half, BIN_WALL, BIN_HEIGHT_IN_CUBES * half
    sides = "".join(
        f'<geom type="box" size="{wall} {inner + 2 * wall} {height}" pos="{sign * (inner + wall)} 0 {height}" rgba="{rgba}"/>'
        f'<geom type="box" size="{inner + 2 * wall} {wall} {height}" pos="0 {sign * (inner + wall)} {height}" rgba="{rgba}"/>'
        for sign, rgba in ((-1, green), (1, green))
    )
    return _MARKER.format(geoms=sides)


def _geoms_of(model: mujoco.MjModel, body: str) -> np.ndarray:
    try:
        index = model.body(body).id
    except KeyError:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(model.geom_bodyid == index)
