"""Plans of experts (next motion of the tool), and a view of the scene with the quantities they need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rpd.envs.privileged_state import ManipulationState

PHASES = ("approach", "descend", "grasp", "carry", "release", "push", "hold")
APPROACH, DESCEND, GRASP, CARRY, RELEASE, PUSH, HOLD = range(len(PHASES))

HOVER = 3.5
"""Travel height of the gripper above the contact point. Lengths around the cube are in half edges."""
FINGER = 0.012
"""Half the thickness of a closed gripper, m."""
MAX_PUSH = 0.045
"""Largest distance of the target ahead while pushing, m: at higher speeds the cube slides away."""


@dataclass(frozen=True)
class Plan:
    """Next motion of the tool, in physical units."""

    move: Tensor
    """[N, 3] displacement from the tcp, m, base frame."""
    turn: Tensor
    """[N] remaining rotation about the base's z axis, rad."""
    open: Tensor
    """[N] bool: open the gripper."""
    phase: Tensor
    """[N] int64, index into PHASES."""


class View:
    """Quantities of the scene: positions [N, 3], headings as complex numbers [N]."""

    def __init__(self, scene: Tensor) -> None:
        self.tcp = ManipulationState.get(scene, "tcp_pos")
        self.object = ManipulationState.get(scene, "object_pos")
        self.target = ManipulationState.get(scene, "target_pos")
        self.half = ManipulationState.get(scene, "object_half_size")[:, 0]
        self.gripper = ManipulationState.get(scene, "gripper")[:, 0]
        self.grasped = ManipulationState.get(scene, "grasped")[:, 0] > 0.5
        self.object_quat, self.target_quat = (
            ManipulationState.get(scene, "object_quat"),
            ManipulationState.get(scene, "target_quat"),
        )
        tcp_axes = axes(ManipulationState.get(scene, "tcp_quat"))
        self.tcp_z = tcp_axes[:, 2]
        self.fingers = heading(tcp_axes[:, 1])


def axes(quat: Tensor) -> Tensor:
    """Axes x, y, z [N, 3, 3], one per row, of bodies with orientation quat (wxyz) [N, 4]."""
    w, u = quat[:, None, :1], quat[:, None, 1:]
    e = torch.eye(3, dtype=quat.dtype, device=quat.device).expand(len(quat), 3, 3)
    twist = 2 * torch.linalg.cross(u, e)
    return e + w * twist + torch.linalg.cross(u, twist)  # e + 2w (u x e) + 2 u x (u x e)


def heading(v: Tensor) -> Tensor:
    """Horizontal part of vectors [..., 3] as complex numbers [...]; multiplication adds angles."""
    return torch.complex(v[..., 0], v[..., 1])


def ramp(x: Tensor, start: Tensor | float, width: Tensor | float) -> Tensor:
    """0 below start, 1 above start + width, linear in between."""
    return ((x - start) / width).clamp(0, 1)


def over(here: Tensor, there: Tensor, height: Tensor, slack: Tensor | float = 0.01) -> Tensor:
    """Displacement [N, 3] from here to `height` [N] above there; moves sideways only within `slack` (m) of that height."""
    way = there - here
    climb = way[:, 2] + height
    sideways = 1 - ramp(climb, slack, 0.02)
    return torch.cat([way[:, :2] * sideways[:, None], climb[:, None]], -1)


def either(condition: Tensor, yes: Plan, no: Plan) -> Plan:
    """`yes` where `condition` [N] holds, else `no`."""
    return Plan(
        torch.where(condition[:, None], yes.move, no.move),
        torch.where(condition, yes.turn, no.turn),
        torch.where(condition, yes.open, no.open),
        torch.where(condition, yes.phase, no.phase),
    )
