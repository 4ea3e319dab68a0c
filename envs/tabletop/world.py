"""The MuJoCo model of a task: a table, the robot, the object, and what stands at the target."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from envs.tabletop.camera import mark_static
from envs.tabletop.robots import Robot
from envs.tabletop.tasks import BIN_HALF_IN_CUBES, GOAL_RADIUS_IN_CUBES, Task

TIMESTEP = 0.01  # s
SUBSTEPS = 5  # per control step: 20 Hz
GREEN = (0.20, 0.70, 0.30)

_SCENE = """
<mujoco model="tabletop">
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic">
    <flag autoreset="disable"/>
  </option>
  <size memory="2M"/>
  <worldbody>
    <geom name="table" type="box" pos="{table_x} 0 -0.025" size="{table_dx} {table_dy} 0.025"
          rgba="0.72 0.66 0.58 1" friction="0.6 0.005 0.0001"/>
    {object}
    {target}
  </worldbody>
  <sensor>{sensors}</sensor>
</mujoco>
"""

_CUBE = """
<body name="{name}" pos="{x} 0 {half}">
  <freejoint name="{name}"/>
  <geom name="{name}" type="box" size="{half} {half} {half}" mass="0.05" friction="1 0.005 0.0001" condim="4"
        rgba="0.8 0.15 0.13 1"/>
</body>
"""

_MARKER = '<body name="target" mocap="true"><geom name="target" {shape} contype="0" conaffinity="0" rgba="{rgba}"/></body>'


@dataclass(frozen=True)
class World:
    """A compiled model and the addresses that the environment reads.

    Attributes:
        model: the MuJoCo model.
        tcp: index of the tcp site.
        tcp_body: body that carries it.
        arm: qpos addresses of the arm joints.
        arm_dofs: qvel addresses of the arm joints.
        fingers: qpos addresses of the two fingers.
        object_qpos: address of the object's free joint in qpos, or None.
        object_qvel: the same in qvel.
        target_qpos: address of the target cube's free joint, or None where the target is a mocap body.
        object_geoms: geoms coloured like the object.
        target_geoms: geoms coloured like the target.
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
    object_geoms: np.ndarray
    target_geoms: np.ndarray


def build(task: Task, robot: Robot) -> World:
    """Compile the model of a task for a robot."""
    half = robot.cube_half_size
    (x0, _), (x1, _) = robot.workspace
    middle = (x0 + x1) / 2
    sensors = "".join(
        f'<contact geom1="{finger}" geom2="object" data="force" reduce="netforce" num="1"/>' for finger in robot.finger_geoms
    )
    spec = mujoco.MjSpec.from_string(
        _SCENE.format(
            timestep=TIMESTEP,
            table_x=middle,
            table_dx=(x1 - x0) / 2 + 0.35,
            table_dy=robot.workspace[1][1] + 0.35,
            object=_CUBE.format(name="object", x=middle, half=half) if task.has_object else "",
            target=_target(task, half, middle),
            sensors=sensors if task.has_object else "",
        )
    )
    robot.attach(spec)
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
        object_geoms=_geoms_of(model, "object"),
        target_geoms=_geoms_of(model, "target"),
    )


def _target(task: Task, half: float, x: float) -> str:
    green = " ".join(map(str, (*GREEN, 1)))
    if task.marker == "cube":
        return _CUBE.format(name="target", x=x + 5 * half, half=half)
    if task.marker == "ball":
        return _MARKER.format(shape=f'type="sphere" size="{0.8 * half}"', rgba=green)
    if task.marker == "disc":
        # Lowered by half a cube: the target is a point at the cube's height, the disc lies on the table.
        return _MARKER.format(
            shape=f'type="cylinder" size="{GOAL_RADIUS_IN_CUBES * half} 0.001" pos="0 0 {0.001 - half}"', rgba=green
        )
    inner, wall, height = BIN_HALF_IN_CUBES * half, 0.004, 1.2 * half
    sides = "".join(
        f'<geom type="box" size="{wall} {inner + 2 * wall} {height}" pos="{sign * (inner + wall)} 0 {height}" rgba="{rgba}"/>'
        f'<geom type="box" size="{inner + 2 * wall} {wall} {height}" pos="0 {sign * (inner + wall)} {height}" rgba="{rgba}"/>'
        for sign, rgba in ((-1, green), (1, green))
    )
    return f'<body name="target" mocap="true">{sides}</body>'


def _geoms_of(model: mujoco.MjModel, body: str) -> np.ndarray:
    try:
        index = model.body(body).id
    except KeyError:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(model.geom_bodyid == index)
