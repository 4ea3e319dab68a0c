"""The expert that pushes a T onto its place, from one contact after the other.

A push is judged by what the T would do if it slid slowly, with friction under all of it: a force f at the point p moves it by f
and turns it by p x f / c², where c is the ratio of the largest friction moment to the largest friction force (the ellipsoidal
limit surface of Howe and Cutkosky, 1996; as in Lynch, 1992). The best push is the one whose motion points most nearly to where
the T shall be, measured by how far its points have to go. It goes on while it does, towards the nearest pose on its way.

Everything is in the T's frame and in half edges of its cubes, points are complex numbers: see `envs.tee`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs import tee
from teachers.scripted.plan import APPROACH, DESCEND, HOLD, MAX_PUSH, PUSH, Plan, View, axes, heading, over, ramp

LEVER = 3.9
"""c: its corners carry a T, and they are further out than its points on average."""
CONE = 0.45
"""Largest angle of a push against the face, rad: well within what friction holds."""
KEEP = 0.6
"""A push goes on as long as the cosine between its motion and the wanted one is at least this part of the best one's."""
DETOUR = 0.01
"""How much better by that cosine a contact has to be for each half edge that it is further away."""
STANDOFF, TOUCH = 1.5, 0.95
"""From a face to the tool that comes down beside it, and to one that pushes: closed fingers reach 0.7 to 1.2."""
APART = 0.4
"""Distance between the contacts that are compared."""
CROSS = 3.0
"""Height above the T's middle at which the tool crosses it."""
ASIDE, SLIP = 0.5, 0.8
"""How far along a face a push may begin from the contact that was meant, and go on from the nearest one."""
DONE = 0.12
"""Nothing is left to do where the T's points are this near to their places."""


def _contacts() -> tuple[Tensor, Tensor]:
    """Points [C] on the faces and their outward normals; not where fingers would slip off an edge or do not fit in."""
    (bar, _), (thick, wide) = tee.BAR
    (stem, _), (long, thin) = tee.STEM
    edge, corner = 0.4, STANDOFF + 0.5
    under, end = bar + thick, stem + long
    faces = [  # start, direction, length, normal: those at y >= 0, the others are their mirror images
        (complex(bar - thick, 0.0), 1j, wide - edge, -1),
        (complex(bar - thick + edge, wide), 1, 2 * (thick - edge), 1j),
        (complex(under, thin + corner), 1j, wide - thin - corner - edge, 1),
        (complex(under + corner, thin), 1, end - under - corner - edge, 1j),
        (complex(end, 0.0), 1j, thin - edge, 1),
    ]
    points, normals = [], []
    for start, along, length, normal in faces:
        steps = torch.arange(0.0, length + 1e-6, APART).tolist()
        points += [start + along * step for step in steps]
        normals += [complex(normal)] * len(steps)
    mirrored = [[z.conjugate() for z in side] for side in (points, normals)]
    return torch.tensor(points + mirrored[0]), torch.tensor(normals + mirrored[1])


_POINTS, _NORMALS = _contacts()


def push_tee(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Go beside the best contact, over the T if it is in the way, and push from there."""
    points, normals, rows = _POINTS.to(v.tcp.device), _NORMALS.to(v.tcp.device), torch.arange(len(v.tcp), device=v.tcp.device)
    frame = torch.polar(v.half, torch.angle(heading(axes(v.object_quat)[:, 0])))
    way, tool = heading(v.target - v.object) / frame, heading(v.tcp - v.object) / frame
    turn = torch.angle(heading(axes(v.target_quat)[:, 0]) / frame)

    beside = points + STANDOFF * normals  # [C]
    apart = (tool[:, None] - beside).abs()  # [N, C]
    merits, _ = push(way[:, None], turn[:, None], points, normals)
    best = (merits - DETOUR * apart).argmax(1)
    aim = beside[best]
    height = (v.tcp - v.object)[:, 2] / v.half
    low = height.abs() < 0.8
    arrived = low & (apart[rows, best] < ASIDE)
    here = torch.where(arrived, best, apart.argmin(1))
    normal = normals[here]
    gap = _dot(tool - points[here], normal)
    contact = tool - gap * normal
    slip = contact - points[here]
    merit, motion = push(way, turn, contact, normal)

    close = low & _within(tool, 0.95 * STANDOFF)
    pushing = arrived | close & (slip.abs() < SLIP) & (merit > KEEP * merits[rows, best])
    blocked = _crosses(tool, aim, (0.7 + 0.2 * (height / CROSS).clamp(0, 1)) * STANDOFF)  # who comes down goes on

    # Straight to the face until it touches, then as the point of contact shall go; and never off the end of the face.
    motion = torch.lerp(motion, _dot(motion, normal) * normal, ramp(gap, TOUCH, 0.2).to(motion.dtype))
    motion = motion - slip * (1 - APART / 2 / slip.abs().clamp(min=1e-6)).clamp(min=0)
    ahead = motion / (motion.abs() * v.half / MAX_PUSH).clamp(min=1)
    leave = beside[here] + 0.3 * normal - tool
    level = torch.cat([_flat(torch.where(pushing, ahead, leave) * frame), (-height * v.half)[:, None]], -1)
    there = v.object + torch.nn.functional.pad(_flat(aim * frame), (0, 1))
    around = over(v.tcp, there, CROSS * v.half * blocked, v.half)
    done = (way.abs().square() + (tee.GYRATION * turn).square()).sqrt() < DONE

    move = torch.where((pushing | close)[:, None], level, around) * ~done[:, None]
    straight = -torch.angle(v.fingers.square().square()) / 4  # along an axis of the base, whatever the T does
    phase = torch.where(pushing, PUSH, torch.where(blocked | close, APPROACH, DESCEND))
    return Plan(move, straight * ~done, torch.zeros_like(done), torch.where(done, HOLD, phase))


def push(way: Tensor, turn: Tensor, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """The best push of a T at a point. The arguments are broadcast.

    Args:
        way: to where it shall be.
        turn: by how much it shall turn, rad.
        point: where it is pushed.
        normal: of the face there, outward.

    Returns:
        The cosine between the motion and the wanted one, and how the point moves until the T is as near as that takes it.
    """
    lever = 1j * point / LEVER**2  # p x f / c² = <lever, f>
    swing = tee.GYRATION**2 * turn
    # The wanted motion is (way, turn), a force's is (f, <lever, f>), and a turn weighs GYRATION²: their product is largest
    # for a force along way + swing * lever, or the nearest to it that does not slip.
    against = torch.angle((way + swing * lever) * -normal.conj()).clamp(-CONE, CONE)
    force = -normal * torch.polar(torch.ones_like(against), against)
    spin = _dot(lever, force)
    size = 1 + (tee.GYRATION * spin).square()
    along = _dot(way, force) + swing * spin
    wanted = (way.abs().square() + swing * turn).clamp(min=1e-9)
    return along / (wanted * size).sqrt(), along / size * (force + spin * 1j * point)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b.conj()).real


def _flat(z: Tensor) -> Tensor:
    """Complex numbers [N] as vectors [N, 2]."""
    return torch.stack([z.real, z.imag], -1)


def _within(tool: Tensor, margin: float) -> Tensor:
    """Whether tools [N] are inside the T, grown by `margin`."""
    inside = torch.zeros_like(tool.real, dtype=torch.bool)
    for (x, y), (dx, dy) in (tee.BAR, tee.STEM):
        inside |= ((tool.real - x).abs() < dx + margin) & ((tool.imag - y).abs() < dy + margin)
    return inside


def _crosses(start: Tensor, end: Tensor, margin: Tensor) -> Tensor:
    """Whether the straight way from start to end [N] goes through the T, grown by `margin` [N]."""
    hit, way = torch.zeros_like(margin, dtype=torch.bool), end - start
    for (x, y), (dx, dy) in (tee.BAR, tee.STEM):
        enter, leave = torch.zeros_like(margin), torch.ones_like(margin)
        for here, run, size in ((start.real - x, way.real, dx + margin), (start.imag - y, way.imag, dy + margin)):
            run = torch.where(run.abs() < 1e-6, 1e-6, run)
            first, last = (-size - here) / run, (size - here) / run
            enter, leave = torch.maximum(enter, torch.minimum(first, last)), torch.minimum(leave, torch.maximum(first, last))
        hit |= enter < leave
    return hit
