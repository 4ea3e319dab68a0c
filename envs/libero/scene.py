"""What privileged teachers may know (`envs.privileged.Scene`) of the tasks that move one thing to one place.

Things in LIBERO are bowls, bottles and boxes, not cubes. Where to take hold of one is therefore part of the scene: its
`object_pos` is the point that the fingertips should be at, its `object_quat` has its y axis along the direction in which they
close. Both are chosen at the start of an episode, and move with the object. `target_pos` is where that point shall be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.privileged import Scene

HOLLOW = ("bowl", "plate", "ramekin", "mug", "basket", "pan")
"""Words in the names of things that are held by their rim."""
FINGER_OPEN = 0.04
RELATIVE = ("dx", "dy", "dz", "target_dx", "target_dy", "target_dz", "cos4", "sin4", "grasped")
"""Names of `Scene.relative`."""
HALF = 0.02
"""m: half the edge of the cube that teachers may take a thing for, where they need a length."""
_DEPTH = 0.02  # m below the top at which a tall thing is held
_RIM_DEPTH = 0.012
_THERE = 0.04
_WIDEST = 0.07  # m that fits between the fingers
_HAND = (((0.025, 0.04, 0.055), (-0.012, 0.012), -0.01), ((0.055, 0.08, 0.105), (-0.035, 0.0, 0.035), 0.06))
"""An open finger and its half of the palm above: where they are along and across the direction of closing, and how high above
the fingertips; all m."""
_PRESSED = 0.7  # cosine between a contact's normal and the fingers' direction
_CLEAR = 0.01  # m above its place at which a thing can be let go


@dataclass(frozen=True)
class Grasp:
    """Where to hold a thing, in its own frame.

    Attributes:
        point: [3].
        frame: [3, 3] columns x, y, z: the fingers close along y and point along z.
        bottom: m from its lowest point up to its origin.
    """

    point: np.ndarray
    frame: np.ndarray
    bottom: float


def roles_of(env: Any) -> Roles | None:
    """The roles in a task of robosuite's environment `env`; None where it is not to move one thing to one place."""
    goals = env.parsed_problem["goal_state"]
    if len(goals) != 1 or goals[0][0] not in ("on", "in") or goals[0][1] not in env.objects_dict:
        return None
    _, thing, place = goals[0]
    known = place in env.object_sites_dict or place in env.obj_body_id
    return Roles(env, thing, place) if known else None


class Roles:
    """The thing that a task moves, and its place.

    Args:
        env: robosuite's environment.
        thing: name of an object.
        place: name of an object or a site.
    """

    def __init__(self, env: Any, thing: str, place: str) -> None:
        model = env.sim.model._model
        self._model = model
        self._body = env.obj_body_id[thing]
        self._hollow = any(word in thing for word in HOLLOW)
        self._geoms = _geoms_below(model, self._body)
        site = place in env.object_sites_dict
        self._place_site = model.site(env.object_sites_dict[place].name).id if site else None
        self._place_body = None if site else env.obj_body_id[place]
        self._base = np.array(env.robots[0].base_pos)
        self._tool = env.robots[0].eef_site_id
        self._fingers = [
            {model.geom(f"gripper0_finger{i}_{part}").id for part in ("collision", "pad_collision")} for i in (1, 2)
        ]
        self._finger_joints = env.robots[0]._ref_gripper_joint_pos_indexes

    def grasp(self, data: mujoco.MjData) -> Grasp:
        """Choose where to hold the thing, as it stands."""
        origin, turn = data.xpos[self._body], data.xmat[self._body].reshape(3, 3)
        points = np.concatenate([_points(self._model, data, geom) for geom in self._geoms])
        if self._hollow:
            point, axis = self._rim(data, origin, turn, points)
        else:
            point, axis = self._waist(data, points)
        frame = np.stack([np.cross(axis, [0, 0, -1.0]), axis, [0, 0, -1.0]], axis=-1)
        return Grasp(turn.T @ (point - origin), turn.T @ frame, float(origin[2] - points[:, 2].min()))

    def scene(self, data: mujoco.MjData, grasp: Grasp) -> np.ndarray:
        """Lay out the scene [Scene.dim] float32, in the frame of the robot's base."""
        origin, turn = data.xpos[self._body], data.xmat[self._body].reshape(3, 3)
        point = origin + turn @ grasp.point
        site = data.site_xmat[self._tool].reshape(3, 3)
        tool = np.stack([-site[:, 1], site[:, 0], site[:, 2]], axis=-1)  # the fingers close along the site's x axis
        values = {
            "tcp_pos": data.site_xpos[self._tool] - self._base,
            "tcp_quat": _quat(tool),
            "gripper": np.abs(data.qpos[self._finger_joints]).mean() / FINGER_OPEN,
            "object_pos": point - self._base,
            "object_quat": _quat(turn @ grasp.frame),
            "object_half_size": HALF,
            "target_pos": point - origin + self._place(data, grasp) - self._base,
            "target_quat": [1.0, 0.0, 0.0, 0.0],
            "grasped": self._grasped(data),
        }
        scene = np.zeros(Scene.dim, np.float32)
        for name, value in values.items():
            scene[Scene.fields[name]] = value
        return scene

    def _place(self, data: mujoco.MjData, grasp: Grasp) -> np.ndarray:
        """Where the thing's origin shall be when it is let go."""
        return self._where(data) + np.array([0.0, 0.0, grasp.bottom + _CLEAR])

    def _where(self, data: mujoco.MjData) -> np.ndarray:
        return np.array(data.xpos[self._place_body] if self._place_site is None else data.site_xpos[self._place_site])

    def _grasped(self, data: mujoco.MjData) -> bool:
        """Whether both fingers touch the thing in the direction in which they close, not only from above."""
        pairs, normals = data.contact.geom, data.contact.frame[:, :3]
        pressed = np.abs(normals @ data.site_xmat[self._tool].reshape(3, 3)[:, 0]) > _PRESSED
        mine = np.isin(pairs, self._geoms) & pressed[:, None]
        return all((np.isin(pairs, list(finger)) & mine[:, ::-1]).any() for finger in self._fingers)

    def _rim(
        self, data: mujoco.MjData, origin: np.ndarray, turn: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where to hold a hollow thing, and in which direction the fingers close there.

        Of the places around its rim, one beside which the outer finger has room; of these, the one for which the hand has to
        turn least, and reach least far.
        """
        up = turn[:, np.abs(turn[2]).argmax()]
        height = (points - origin) @ (up * np.sign(up[2]))
        rim = points[height > height.max() - 0.01] - origin  # of a thing that may stand aslant

        def at(out: np.ndarray) -> np.ndarray:
            side = np.array([-out[1], out[0], 0.0])
            edge = rim[(rim @ out - 10 * np.abs(rim @ side)).argmax()]
            return origin + np.array([*((edge @ out - 0.004) * out[:2]), edge[2] - _RIM_DEPTH])

        away = self._where(data) - origin - self._base

        def cost(out: np.ndarray) -> float:
            reach = np.linalg.norm((at(out) + away)[:2])  # of the hand from the base, when the thing is at its place
            return 10 * self._blocked(data, at(out), out) + 0.05 * abs(out[0]) + 0.5 * float(reach)

        axis = min(_directions(0, 360, 30), key=cost)
        return at(axis), axis

    def _waist(self, data: mujoco.MjData, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where to hold any other thing: in the middle, across its narrow side, where both fingers have room."""
        point = (points.min(0) + points.max(0)) / 2
        point[2] = max(points[:, 2].max() - _DEPTH, point[2])
        axes = _directions(90, 270, 5)  # from y, along which the fingers already lie
        widths = np.array([np.ptp(points @ axis) for axis in axes])
        narrow = int(widths.argmin())
        if widths[0] > 1.15 * widths[narrow]:  # not round: one of its two sides
            axes, widths = [axes[i] for i in (narrow, narrow - 18)], widths[[narrow, narrow - 18]]
        costs = [
            10 * (self._blocked(data, point, axis) + self._blocked(data, point, -axis))
            + (1.0 if width > _WIDEST else 0.0) + width + 0.02 * abs(axis[0])
            for axis, width in zip(axes, widths, strict=True)
        ]  # fmt: skip
        return point, axes[int(np.argmin(costs))]

    def _blocked(self, data: mujoco.MjData, point: np.ndarray, out: np.ndarray) -> float:
        """How far (m) something stands up where the hand would be: a finger that is open towards `out`, and the palm above."""
        side, blocked = np.array([-out[1], out[0], 0.0]), 0.0
        for alongs, acrosses, below in _HAND:
            for along in alongs:
                for across in acrosses:
                    spot = point + along * out + across * side
                    blocked = max(blocked, self._height(data, spot, point[2] + 0.12) - (point[2] + below))
        return blocked + 0.02 if blocked > 0 else 0.0

    def _height(self, data: mujoco.MjData, spot: np.ndarray, start: float) -> float:
        """Height of what stands at a spot, seen from above."""
        hit, group = np.zeros(1, np.int32), np.array([1, 0, 0, 0, 0, 0], np.uint8)
        eye = np.array([spot[0], spot[1], start])
        distance = mujoco.mj_ray(self._model, data, eye, np.array([0.0, 0, -1]), group, 1, self._body, hit)
        return start - distance if distance >= 0 else -np.inf


def _geoms_below(model: mujoco.MjModel, body: int) -> list[int]:
    """The geoms of a body and its children that can be touched."""
    bodies = {body}
    for child in range(body + 1, model.nbody):
        if model.body_parentid[child] in bodies:
            bodies.add(child)
    return [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in bodies and model.geom_contype[geom]]


def _points(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> np.ndarray:
    """Points [K, 3] in the world that a geom's extent can be told from: a mesh's vertices, or the corners of its box."""
    mesh = model.geom_dataid[geom]
    if mesh >= 0:
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        local = model.mesh_vert[first : first + count]
    else:
        center, half = np.split(model.geom_aabb[geom], 2)
        local = center + half * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    return data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T


def _directions(first: int, last: int, step: int) -> list[np.ndarray]:
    """Horizontal unit vectors [3], by their angle to x in degrees."""
    return [np.array([np.cos(angle), np.sin(angle), 0.0]) for angle in np.deg2rad(np.arange(first, last, step))]


def _quat(matrix: np.ndarray) -> np.ndarray:
    """The quaternion wxyz of a rotation matrix."""
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    return quat


def dense(scene: Tensor) -> Tensor:
    """The shaped reward [N] in [0, 1] of scenes [N, Scene.dim]: reach, grasp, carry; as the tabletop's PickCube.

    What follows a grasp weighs three times as much as the grasp, and what is at its place may be let go.
    """
    point, target = Scene.get(scene, "object_pos"), Scene.get(scene, "target_pos")
    reach, left = (point - Scene.get(scene, "tcp_pos")).norm(dim=-1), (target - point).norm(dim=-1)
    near = 1 - 0.5 * (torch.tanh(5 * reach) + torch.tanh(25 * reach))
    held = torch.maximum(Scene.get(scene, "grasped")[:, 0], (left < _THERE).float())
    return (torch.maximum(near, held) + held + 3 * held * (1 - torch.tanh(5 * left))) / 5
