"""What a simulator knows and a policy does not see: the layouts of ``obs["privileged"]``."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor


class Scene:
    """Layout of ``obs["privileged"]`` [N, Scene.dim] float32: what a privileged teacher may know.

    The same for every simulator that offers scripted teachers, in SI units and the robot's base frame.
    Fields that a task does not have are zero; in Reach, which has no object, its fields repeat the target's.

    | field | size | meaning |
    |---|---|---|
    | tcp_pos, tcp_quat | 3, 4 | tool centre point between the fingers, quaternion wxyz |
    | gripper | 1 | distance between the fingers, as a fraction of fully open |
    | object_pos, object_quat | 3, 4 | the object to move |
    | object_half_size | 1 | half of its edge, m |
    | target_pos, target_quat | 3, 4 | where it (for Reach: the tcp) shall go: goal, lower cube, or bin floor |
    | grasped | 1 | 1 where both fingers press on the object |
    | ood | 1 | 1 where the episode lies outside the teacher's training range (see teachers.scripted) |
    """

    fields: ClassVar[dict[str, slice]] = {}
    dim: int = 0
    relative_dim: ClassVar[int] = 9
    WAY: ClassVar[float] = 0.05
    """m: the unit of the ways in `relative`. In units of 0.1, PPO solves half of Reach after 20 k steps instead of all of it;
    0.03 is no better than 0.05."""

    @classmethod
    def get(cls, privileged: Tensor, field: str) -> Tensor:
        """Return one field of a privileged observation [N, dim] as a view [N, size]."""
        return privileged[:, cls.fields[field]]

    @classmethod
    def relative(cls, privileged: Tensor, oriented: bool = False) -> Tensor:
        """Return what a hand that acts in the scene has to know of it [N, relative_dim].

        The way from the tcp to the object and from there to the target (3 + 3, in units of `WAY`), how the object's faces
        are turned against the fingers (cosine and sine of four times the angle), and whether it is grasped. Relative,
        because a network cannot see a centimetre in the difference of two positions; the ways end at a metre, because an
        object that has left the table falls for the rest of the episode.

        Args:
            privileged: [N, dim].
            oriented: see `EnvSpec.oriented`; the turn is then the object's against the target (cosine and sine).
        """
        get = functools.partial(cls.get, privileged)
        ways = torch.cat([get("object_pos") - get("tcp_pos"), get("target_pos") - get("object_pos")], dim=-1)
        turn = _aside(get("object_quat"), get("target_quat")) if oriented else _turn(get("object_quat"), get("tcp_quat"))
        return torch.cat([ways.clamp(-1, 1) / cls.WAY, turn, get("grasped")], dim=-1)

    @classmethod
    def empty(cls, num_envs: int, device: torch.device | str = "cpu") -> Tensor:
        """Return a zeroed privileged observation [num_envs, dim]."""
        return torch.zeros(num_envs, cls.dim, device=device)


class Course:
    """Layout of ``obs["privileged"]`` [N, Course.dim] float32 in navigation, in SI units and the base's frame (x forward).

    | field | size | meaning |
    |---|---|---|
    | goal_pos, goal_yaw | 2, 1 | where the goal is, and how far the base has to turn to its heading, in [-pi, pi) |
    | velocity | 3 | forward, left, turning |
    | way_pos | 2 | the next corner of the shortest path to the goal, or the goal |
    | distance | 1 | length of that path |
    | obstacle_pos | 2 | the nearest point of an obstacle or a wall |
    """

    fields: ClassVar[dict[str, slice]] = {}
    dim: int = 0
    relative_dim: ClassVar[int] = 7
    FAR: ClassVar[float] = 5.0
    """m: the unit of long ways in `relative`."""
    CLOSE: ClassVar[float] = 0.5
    """m: the unit of short ones."""

    @classmethod
    def get(cls, privileged: Tensor, field: str) -> Tensor:
        """Return one field of a privileged observation [N, dim] as a view [N, size]."""
        return privileged[:, cls.fields[field]]

    @classmethod
    def relative(cls, privileged: Tensor) -> Tensor:
        """Return what a base cannot see of its course, all of order one [N, relative_dim].

        The direction of the path's next corner (2), the path's length in units of `FAR` and as exp(-length / CLOSE), the way
        to the nearest surface in units of `CLOSE`, up to a metre (2), and its length as exp(-length / CLOSE).

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
    """How a cube's faces are turned against the fingers: cosine and sine of four times the angle [N, 2].

    A cube looks the same after a quarter turn, whichever face is up; the fourth power of a heading forgets such turns,
    and an axis that stands upright has no heading. Arguments are quaternions wxyz [N, 4]; the fingers open along y.
    """
    heading = (torch.stack(_headings(cube)) ** 4).sum(0)
    turn = heading * (_headings(hand)[1] ** 4).conj()
    turn = turn / turn.abs().clamp_min(1e-9)
    return torch.stack([turn.real, turn.imag], -1).to(cube.dtype)


def _aside(thing: Tensor, target: Tensor) -> Tensor:
    """How a thing's x axis is turned against its target's, seen from above: cosine and sine [N, 2]; quaternions [N, 4]."""
    turn = _headings(thing)[0] * _headings(target)[0].conj()
    turn = turn / turn.abs().clamp_min(1e-9)
    return torch.stack([turn.real, turn.imag], -1).to(thing.dtype)


def _headings(quat: Tensor) -> list[Tensor]:
    """Where the axes x, y, z of a frame point, seen from above: three complex x + iy [N], from a quaternion wxyz [N, 4]."""
    w, x, y, z = quat.double().unbind(-1)
    return [
        torch.complex(1 - 2 * (y * y + z * z), 2 * (x * y + w * z)),
        torch.complex(2 * (x * y - w * z), 1 - 2 * (x * x + z * z)),
        torch.complex(2 * (x * z + w * y), 2 * (y * z - w * x)),
    ]


for _layout, _sizes in (
    (Scene, {"tcp_pos": 3, "tcp_quat": 4, "gripper": 1, "object_pos": 3, "object_quat": 4, "object_half_size": 1,
             "target_pos": 3, "target_quat": 4, "grasped": 1, "ood": 1}),
    (Course, {"goal_pos": 2, "goal_yaw": 1, "velocity": 3, "way_pos": 2, "distance": 1, "obstacle_pos": 2}),
):  # fmt: skip
    for _name, _size in _sizes.items():
        _layout.fields[_name] = slice(_layout.dim, _layout.dim + _size)
        _layout.dim += _size
