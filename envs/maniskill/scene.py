"""Privileged state (`ManipulationState`) of ManiSkill's tasks.

Two steps, so that the geometry is computed once for the batch: `raw` copies poses in the world frame from one simulation,
`to_scene` converts them to the robot's base frame (ManiSkill's Panda is at x = -0.615 m).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rpd.envs.privileged_state import ManipulationState

ROBOTS = ("panda", "panda_wristcam")
"""Robots with the Panda's gripper: two fingers, 0 to 0.04 m each, the last two joints."""
_FINGER_OPEN = 0.04

RAW_DIM = 7 * 4 + 3


@dataclass(frozen=True)
class Roles:
    """Actors of a task that are the object and its target.

    Attributes:
        object: attribute of the task with the object's actor.
        target: attribute of the task with the goal, or with the cube to stack on.
        grasped: the task's own entry for whether the object is grasped; None if the task has no grasp.
        flat_target: whether the goal is a disc on the table: the target is then at the object's height above it.
    """

    object: str
    target: str
    grasped: str | None = None
    flat_target: bool = False


ROLES = {
    "PushCube-v1": Roles("obj", "goal_region", flat_target=True),
    "PullCube-v1": Roles("obj", "goal_region", flat_target=True),
    "PickCube-v1": Roles("cube", "goal_site", grasped="is_grasped"),
    "StackCube-v1": Roles("cubeA", "cubeB", grasped="is_cubeA_grasped"),
}


def raw(base: Any, roles: Roles, info: dict[str, Tensor]) -> Tensor:
    """Copy the poses of a scene.

    Args:
        base: ManiSkill's environment of B scenes.
        roles: roles of its actors.
        info: ManiSkill's `info` on the current state.

    Returns:
        [B, RAW_DIM]: poses [x y z qw qx qy qz] of the robot's base, TCP, object and target in the world frame; gripper opening
        as a fraction, grasped, half size.
    """
    agent = base.agent
    thing = getattr(base, roles.object).pose.raw_pose
    target = getattr(base, roles.target).pose.raw_pose
    half = torch.as_tensor(base.cube_half_size, dtype=torch.float32, device=thing.device).reshape(-1)[0].expand(len(thing), 1)
    if roles.flat_target:
        target = torch.cat([target[:, :2], half, torch.zeros_like(target[:, :4])], dim=-1)
        target[:, 3] = 1
    opening = agent.robot.get_qpos()[:, -2:].mean(-1, keepdim=True) / _FINGER_OPEN
    grasped = info[roles.grasped].float()[:, None] if roles.grasped else torch.zeros_like(opening)
    return torch.cat([agent.robot.pose.raw_pose, agent.tcp.pose.raw_pose, thing, target, opening, grasped, half], dim=-1)


def to_scene(raw: Tensor) -> Tensor:
    """Convert raw poses [N, RAW_DIM] to a `ManipulationState` [N, ManipulationState.dim] in the robot's base frame."""
    root, tcp, thing, target, rest = raw.split([7, 7, 7, 7, 3], dim=-1)
    scene = ManipulationState.empty(len(raw), raw.device)
    for name, pose in (("tcp", tcp), ("object", thing), ("target", target)):
        scene[:, ManipulationState.fields[f"{name}_pos"]] = _rotate_back(root[:, 3:], pose[:, :3] - root[:, :3])
        scene[:, ManipulationState.fields[f"{name}_quat"]] = _multiply(_conjugate(root[:, 3:]), pose[:, 3:])
    for i, name in enumerate(("gripper", "grasped", "object_half_size")):
        scene[:, ManipulationState.fields[name]] = rest[:, i : i + 1]
    return scene


def _conjugate(q: Tensor) -> Tensor:
    return q * q.new_tensor([1, -1, -1, -1])


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions wxyz [N, 4]."""
    aw, av, bw, bv = a[:, :1], a[:, 1:], b[:, :1], b[:, 1:]
    vector = aw * bv + bw * av + torch.linalg.cross(av, bv)
    return torch.cat([aw * bw - (av * bv).sum(-1, keepdim=True), vector], dim=-1)


def _rotate_back(q: Tensor, v: Tensor) -> Tensor:
    """Express world vectors v [N, 3] in the frame with orientation q [N, 4] in the world."""
    inverse = _conjugate(q)
    # v' = v + 2w (u x v) + 2 u x (u x v), with (w, u) the inverse rotation.
    twist = 2 * torch.linalg.cross(inverse[:, 1:], v)
    return v + inverse[:, :1] * twist + torch.linalg.cross(inverse[:, 1:], twist)
