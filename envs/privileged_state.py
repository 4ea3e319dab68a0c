"""Layouts of ``obs["privileged"]``: simulator state for teachers and critics that a policy does not observe."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor


class ManipulationState:
    """Layout of ``obs["privileged"]`` [N, ManipulationState.dim] float32 for manipulation tasks.

    The same for every simulator with scripted teachers, in SI units and in the robot's base frame. Fields that a task does not
    have are zero; in Reach, which has no object, the object fields repeat the target.

    | field | size | meaning |
    |---|---|---|
    | tcp_pos, tcp_quat | 3, 4 | tool center point (TCP) between the fingers, quaternion wxyz |
    | gripper | 1 | gripper opening, as a fraction of fully open |
    | object_pos, object_quat | 3, 4 | pose of the object to move |
    | object_half_size | 1 | half of the object's edge, m |
    | target_pos, target_quat | 3, 4 | target pose of the object (Reach: of the TCP): goal, lower cube, or bin floor |
    | grasped | 1 | 1 if both fingers press on the object |
    | ood | 1 | 1 if the episode is outside the teacher's training range (see rpd.teachers.scripted) |
    """

    fields: ClassVar[dict[str, slice]] = {}
    dim: int = 0
    relative_dim: ClassVar[int] = 9
    WAY: ClassVar[float] = 0.05
    """Unit of the displacements in `relative`, m. With 0.1, PPO solves only half of Reach after 20 k steps; 0.03 is no better
    than 0.05."""

    @classmethod
    def get(cls, privileged: Tensor, field: str) -> Tensor:
        """Return one field of a privileged observation [N, dim] as a view [N, size]."""
        return privileged[:, cls.fields[field]]

    @classmethod
    def relative(cls, privileged: Tensor, oriented: bool = False) -> Tensor:
        """Return features [N, relative_dim] that are sufficient to act, relative to the hand.

        Displacements from the TCP to the object and from there to the target (3 + 3, in units of `WAY`), orientation of the
        object's faces relative to the fingers (cosine and sine of four times the angle), and whether it is grasped. Relative,
        because a network cannot resolve a centimeter in the difference of two absolute positions. Displacements are clipped to
        1 m, because an object that leaves the table falls until the episode ends.

        Args:
            privileged: [N, dim].
            oriented: see `EnvSpec.oriented`; the angle is then between object and target (cosine and sine).
        """
        get = functools.partial(cls.get, privileged)
        ways = torch.cat([get("object_pos") - get("tcp_pos"), get("target_pos") - get("object_pos")], dim=-1)
        turn = _aside(get("object_quat"), get("target_quat")) if oriented else _turn(get("object_quat"), get("tcp_quat"))
        return torch.cat([ways.clamp(-1, 1) / cls.WAY, turn, get("grasped")], dim=-1)

    @classmethod
    def empty(cls, num_envs: int, device: torch.device | str = "cpu") -> Tensor:
        """Return a zeroed privileged observation [num_envs, dim]."""
        return torch.zeros(num_envs, cls.dim, device=device)


class NavigationState:
    """Layout of ``obs["privileged"]`` [N, NavigationState.dim] float32 in navigation.

    SI units, in the frame of the base (x forward).

    | field | size | meaning |
    |---|---|---|
    | goal_pos, goal_yaw | 2, 1 | position of the goal, and rotation to its heading in [-pi, pi) |
    | velocity | 3 | forward, left, turning |
    | way_pos | 2 | next corner of the shortest path to the goal, or the goal |
    | distance | 1 | length of the shortest path |
    | obstacle_pos | 2 | nearest point of an obstacle or a wall |
    """

    fields: ClassVar[dict[str, slice]] = {}
    dim: int = 0
    relative_dim: ClassVar[int] = 7
    FAR: ClassVar[float] = 5.0
    """Unit of long distances in `relative`, m."""
    CLOSE: ClassVar[float] = 0.5
    """Unit of short distances in `relative`, m."""

    @classmethod
    def get(cls, privileged: Tensor, field: str) -> Tensor:
        """Return one field of a privileged observation [N, dim] as a view [N, size]."""
        return privileged[:, cls.fields[field]]

    @classmethod
    def relative(cls, privileged: Tensor) -> Tensor:
        """Return features [N, relative_dim], of order one, that a base does not observe.

        Direction of the next corner of the path (2), path length in units of `FAR` and as exp(-length / CLOSE), displacement to
        the nearest surface in units of `CLOSE`, up to 1 m (2), and its length as exp(-length / CLOSE).

        Args:
            privileged: [N, dim].
        """
        way, length, obstacle = (cls.get(privileged, field) for field in ("way_pos", "distance", "obstacle_pos"))
        gap = obstacle.norm(dim=-1, keepdim=True)
        return torch.cat([
            way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6), length / cls.FAR, (-length / cls.CLOSE).exp(),
            obstacle / gap.clamp_min(1e-6) * gap.clamp_max(1.0) / cls.CLOSE, (-gap / cls.CLOSE).exp(),
        ], dim=-1)  # fmt: skip


def _turn(cube: Tensor, hand: Tensor) -> Tensor:
    """Orientation of a cube's faces relative to the fingers: cosine and sine of four times the angle [N, 2].

    A cube is symmetric under quarter turns about any face normal; the fourth power of a heading is invariant to these, and a
    vertical axis has no heading. Arguments are quaternions wxyz [N, 4]; the fingers open along y.
    """
    heading = (torch.stack(_headings(cube)) ** 4).sum(0)
    turn = heading * (_headings(hand)[1] ** 4).conj()
    turn = turn / turn.abs().clamp_min(1e-9)
    return torch.stack([turn.real, turn.imag], -1).to(cube.dtype)


def _aside(thing: Tensor, target: Tensor) -> Tensor:
    """Yaw of an object's x axis relative to its target's: cosine and sine [N, 2], from quaternions [N, 4]."""
    turn = _headings(thing)[0] * _headings(target)[0].conj()
    turn = turn / turn.abs().clamp_min(1e-9)
    return torch.stack([turn.real, turn.imag], -1).to(thing.dtype)


def _headings(quat: Tensor) -> list[Tensor]:
    """Headings of the axes x, y, z of a frame in the xy plane: three complex x + iy [N], from a quaternion wxyz [N, 4]."""
    w, x, y, z = quat.double().unbind(-1)
    return [
        torch.complex(1 - 2 * (y * y + z * z), 2 * (x * y + w * z)),
        torch.complex(2 * (x * y - w * z), 1 - 2 * (x * x + z * z)),
        torch.complex(2 * (x * z + w * y), 2 * (y * z - w * x)),
    ]


for _layout, _sizes in (
    (ManipulationState, {"tcp_pos": 3, "tcp_quat": 4, "gripper": 1, "object_pos": 3, "object_quat": 4, "object_half_size": 1,
             "target_pos": 3, "target_quat": 4, "grasped": 1, "ood": 1}),
    (NavigationState, {"goal_pos": 2, "goal_yaw": 1, "velocity": 3, "way_pos": 2, "distance": 1, "obstacle_pos": 2}),
):  # fmt: skip
    for _name, _size in _sizes.items():
        _layout.fields[_name] = slice(_layout.dim, _layout.dim + _size)
        _layout.dim += _size
