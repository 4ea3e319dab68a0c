"""Privileged state (`ManipulationState`) of the LIBERO tasks that move one object to one place.

Objects in LIBERO are bowls, bottles and boxes, not cubes, so the grasp is part of the state: `object_pos` is the grasp point
between the fingertips, and the y axis of `object_quat` is the closing direction of the fingers. Both are chosen at the start of
an episode and move with the object. `target_pos` is the goal of the grasp point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rpd.envs.privileged_state import ManipulationState

HOLLOW = ("bowl", "plate", "ramekin", "mug", "basket", "pan")
"""Words in the names of objects that are grasped by the rim."""
FINGER_OPEN = 0.04
RELATIVE = ("dx", "dy", "dz", "target_dx", "target_dy", "target_dz", "cos4", "sin4", "grasped")
"""Names of the entries of `ManipulationState.relative`."""
HALF = 0.02
"""Nominal half edge of an object, m, for teachers that need a length."""
_DEPTH = 0.02  # distance of the grasp point below the top of a tall object, m
_RIM_DEPTH = 0.012
_THERE = 0.04
_WIDEST = 0.07  # largest width that fits between the fingers, m
_HAND = (((0.025, 0.04, 0.055), (-0.012, 0.012), -0.01), ((0.055, 0.08, 0.105), (-0.035, 0.0, 0.035), 0.06))
"""Boxes of an open finger and its half of the palm above it: positions along and across the closing direction, and height above
the fingertips, m."""
_PRESSED = 0.7  # minimum cosine between a contact's normal and the closing direction
_CLEAR = 0.01  # release height above the target, m


@dataclass(frozen=True)
class Grasp:
    """Grasp pose in the frame of the object.

    Attributes:
        point: [3].
        frame: [3, 3] columns x, y, z: the fingers close along y and point along z.
        bottom: height of the object's origin above its lowest point, m.
    """

    point: np.ndarray
    frame: np.ndarray
    bottom: float


def roles_of(env: Any) -> Roles | None:
    """Roles in a task of robosuite's environment `env`; None if the task does not move one object to one place."""
    goals = env.parsed_problem["goal_state"]
    if len(goals) != 1 or goals[0][0] not in ("on", "in") or goals[0][1] not in env.objects_dict:
        return None
    _, thing, place = goals[0]
    known = place in env.object_sites_dict or place in env.obj_body_id
    return Roles(env, thing, place) if known else None


class Roles:
    """The object that a task moves, and its target.

    Args:
        env: robosuite's environment.
        thing: name of the object.
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
        """Choose a grasp for the object in its current pose."""
        origin, turn = data.xpos[self._body], data.xmat[self._body].reshape(3, 3)
        points = np.concatenate([_points(self._model, data, geom) for geom in self._geoms])
        if self._hollow:
            point, axis = self._rim(data, origin, turn, points)
        else:
            point, axis = self._waist(data, points)
        frame = np.stack([np.cross(axis, [0, 0, -1.0]), axis, [0, 0, -1.0]], axis=-1)
        return Grasp(turn.T @ (point - origin), turn.T @ frame, float(origin[2] - points[:, 2].min()))

    def scene(self, data: mujoco.MjData, grasp: Grasp) -> np.ndarray:
        """Privileged state [ManipulationState.dim] float32, in the frame of the robot's base."""
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
        scene = np.zeros(ManipulationState.dim, np.float32)
        for name, value in values.items():
            scene[ManipulationState.fields[name]] = value
        return scene

    def _place(self, data: mujoco.MjData, grasp: Grasp) -> np.ndarray:
        """Target of the object's origin at release, [3] m."""
        return self._where(data) + np.array([0.0, 0.0, grasp.bottom + _CLEAR])

    def _where(self, data: mujoco.MjData) -> np.ndarray:
        return np.array(data.xpos[self._place_body] if self._place_site is None else data.site_xpos[self._place_site])

    def _grasped(self, data: mujoco.MjData) -> bool:
        """Whether both fingers touch the object along the closing direction, not only from above."""
        pairs, normals = data.contact.geom, data.contact.frame[:, :3]
        pressed = np.abs(normals @ data.site_xmat[self._tool].reshape(3, 3)[:, 0]) > _PRESSED
        mine = np.isin(pairs, self._geoms) & pressed[:, None]
        return all((np.isin(pairs, list(finger)) & mine[:, ::-1]).any() for finger in self._fingers)

    def _rim(
        self, data: mujoco.MjData, origin: np.ndarray, turn: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Grasp point on the rim of a hollow object, and closing direction there.

        Considers points around the rim, prefers room for the outer finger, then small rotation and reach of the hand.
        """
        up = turn[:, np.abs(turn[2]).argmax()]
        height = (points - origin) @ (up * np.sign(up[2]))
        rim = points[height > height.max() - 0.01] - origin  # the object may be tilted

        def at(out: np.ndarray) -> np.ndarray:
            side = np.array([-out[1], out[0], 0.0])
            edge = rim[(rim @ out - 10 * np.abs(rim @ side)).argmax()]
            return origin + np.array([*((edge @ out - 0.004) * out[:2]), edge[2] - _RIM_DEPTH])

        away = self._where(data) - origin - self._base

        def cost(out: np.ndarray) -> float:
            reach = np.linalg.norm((at(out) + away)[:2])  # distance of the hand from the base, with the object at its target
            return 10 * self._blocked(data, at(out), out) + 0.05 * abs(out[0]) + 0.5 * float(reach)

        axis = min(_directions(0, 360, 30), key=cost)
        return at(axis), axis

    def _waist(self, data: mujoco.MjData, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Grasp point of any other object: at the center, across its narrow side, with room for both fingers."""
        point = (points.min(0) + points.max(0)) / 2
        point[2] = max(points[:, 2].max() - _DEPTH, point[2])
        axes = _directions(90, 270, 5)  # starting from y, the current closing direction
        widths = np.array([np.ptp(points @ axis) for axis in axes])
        narrow = int(widths.argmin())
        if widths[0] > 1.15 * widths[narrow]:  # not round: use one of its two sides
            axes, widths = [axes[i] for i in (narrow, narrow - 18)], widths[[narrow, narrow - 18]]
        costs = [
            10 * (self._blocked(data, point, axis) + self._blocked(data, point, -axis))
            + (1.0 if width > _WIDEST else 0.0) + width + 0.02 * abs(axis[0])
            for axis, width in zip(axes, widths, strict=True)
        ]  # fmt: skip
        return point, axes[int(np.argmin(costs))]

    def _blocked(self, data: mujoco.MjData, point: np.ndarray, out: np.ndarray) -> float:
        """Height (m) of obstacles inside the hand: a finger opened toward `out`, and the palm above it."""
        side, blocked = np.array([-out[1], out[0], 0.0]), 0.0
        for alongs, acrosses, below in _HAND:
            for along in alongs:
                for across in acrosses:
                    spot = point + along * out + across * side
                    blocked = max(blocked, self._height(data, spot, point[2] + 0.12) - (point[2] + below))
        return blocked + 0.02 if blocked > 0 else 0.0

    def _height(self, data: mujoco.MjData, spot: np.ndarray, start: float) -> float:
        """Height of the surface below a point, by a downward ray."""
        hit, group = np.zeros(1, np.int32), np.array([1, 0, 0, 0, 0, 0], np.uint8)
        eye = np.array([spot[0], spot[1], start])
        distance = mujoco.mj_ray(self._model, data, eye, np.array([0.0, 0, -1]), group, 1, self._body, hit)
        return start - distance if distance >= 0 else -np.inf


def _geoms_below(model: mujoco.MjModel, body: int) -> list[int]:
    """Colliding geoms of a body and its children."""
    bodies = {body}
    for child in range(body + 1, model.nbody):
        if model.body_parentid[child] in bodies:
            bodies.add(child)
    return [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in bodies and model.geom_contype[geom]]


def _points(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> np.ndarray:
    """Points [K, 3] in the world frame that span a geom: vertices of its mesh, or corners of its bounding box."""
    mesh = model.geom_dataid[geom]
    if mesh >= 0:
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        local = model.mesh_vert[first : first + count]
    else:
        center, half = np.split(model.geom_aabb[geom], 2)
        local = center + half * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    return data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T


def _directions(first: int, last: int, step: int) -> list[np.ndarray]:
    """Horizontal unit vectors [3], by angle from x in degrees."""
    return [np.array([np.cos(angle), np.sin(angle), 0.0]) for angle in np.deg2rad(np.arange(first, last, step))]


def _quat(matrix: np.ndarray) -> np.ndarray:
    """Quaternion wxyz of a rotation matrix."""
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    return quat


def dense(scene: Tensor) -> Tensor:
    """Dense reward [N] in [0, 1] of privileged states [N, ManipulationState.dim]: reach, grasp, carry; as in tabletop/PickCube.

    Rewards after a grasp have three times its weight; an object at its target counts as held, so that it may be released.
    """
    point, target = ManipulationState.get(scene, "object_pos"), ManipulationState.get(scene, "target_pos")
    reach, left = (point - ManipulationState.get(scene, "tcp_pos")).norm(dim=-1), (target - point).norm(dim=-1)
    near = 1 - 0.5 * (torch.tanh(5 * reach) + torch.tanh(25 * reach))
    held = torch.maximum(ManipulationState.get(scene, "grasped")[:, 0], (left < _THERE).float())
    return (torch.maximum(near, held) + held + 3 * held * (1 - torch.tanh(5 * left))) / 5
