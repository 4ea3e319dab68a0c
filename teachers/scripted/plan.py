"""What experts are written in: the scene taken apart, and the plan that says what the tool shall do next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.privileged import Scene

PHASES = ("approach", "descend", "grasp", "carry", "release", "push", "hold")
APPROACH, DESCEND, GRASP, CARRY, RELEASE, PUSH, HOLD = range(len(PHASES))

HOVER = 3.5
"""Height above the contact point at which the gripper travels. Lengths around the cube are in half edges."""
FINGER = 0.012
"""Half the thickness of a closed gripper, m."""
MAX_PUSH = 0.045
"""The target while pushing is at most this far ahead, m: faster, and the cube slides away."""


@dataclass(frozen=True)
class Plan:
    """What the tool shall do next, in physical units."""

    move: Tensor
    """[N, 3] where to go, relative to the tcp, m, base frame."""
    turn: Tensor
    """[N] rotation still to make about the base's z axis, rad."""
    open: Tensor
    """[N] bool: the gripper shall be open."""
    phase: Tensor
    """[N] int64, index into PHASES."""


class View:
    """The scene, taken apart once: positions [N, 3], headings as complex numbers [N]."""

    def __init__(self, scene: Tensor) -> None:
        self.tcp = Scene.get(scene, "tcp_pos")
        self.object = Scene.get(scene, "object_pos")
        self.target = Scene.get(scene, "target_pos")
        self.half = Scene.get(scene, "object_half_size")[:, 0]
        self.gripper = Scene.get(scene, "gripper")[:, 0]
        self.grasped = Scene.get(scene, "grasped")[:, 0] > 0.5
        self.object_quat, self.target_quat = Scene.get(scene, "object_quat"), Scene.get(scene, "target_quat")
        tcp_axes = axes(Scene.get(scene, "tcp_quat"))
        self.tcp_z = tcp_axes[:, 2]
        self.fingers = heading(tcp_axes[:, 1])


def axes(quat: Tensor) -> Tensor:
    """Return the axes x, y, z [N, 3, 3] of bodies with orientation quat (wxyz) [N, 4], one per row."""
    w, u = quat[:, None, :1], quat[:, None, 1:]
    e = torch.eye(3, device=quat.device).expand(len(quat), 3, 3)
    twist = 2 * torch.linalg.cross(u, e)
    return e + w * twist + torch.linalg.cross(u, twist)  # e + 2w (u x e) + 2 u x (u x e)


def heading(v: Tensor) -> Tensor:
    """The horizontal part of vectors [..., 3] as complex numbers [...]: their product adds angles."""
    return torch.complex(v[..., 0], v[..., 1])


def ramp(x: Tensor, start: Tensor | float, width: Tensor | float) -> Tensor:
    """0 below start, 1 above start + width, linear between."""
    return ((x - start) / width).clamp(0, 1)


def over(here: Tensor, there: Tensor, height: Tensor, slack: Tensor | float = 0.01) -> Tensor:
    """Way [N, 3] from here to `height` [N] above there; sideways only once within `slack` (m) of that height."""
    way = there - here
    climb = way[:, 2] + height
    sideways = 1 - ramp(climb, slack, 0.02)
    return torch.cat([way[:, :2] * sideways[:, None], climb[:, None]], -1)


def either(condition: Tensor, yes: Plan, no: Plan) -> Plan:
    """One plan where `condition` [N] holds, the other elsewhere."""
    return Plan(
        torch.where(condition[:, None], yes.move, no.move),
        torch.where(condition, yes.turn, no.turn),
        torch.where(condition, yes.open, no.open),
        torch.where(condition, yes.phase, no.phase),
    )
