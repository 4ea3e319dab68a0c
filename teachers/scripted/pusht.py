"""Expert that pushes a T to its target pose through a sequence of contacts.

Pushes are evaluated with a quasi-static model with friction over the whole area: a force f at point p translates the T by f and
rotates it by p x f / c², where c is the ratio of the maximum friction moment to the maximum friction force (ellipsoidal limit
surface of Howe and Cutkosky, 1996; as in Lynch, 1992). The best push has the smallest angle between its motion and the
remaining motion to the target, weighted by the displacement of the T's points. A push continues while this holds, towards the
closest pose along its motion.

Everything is in the T's frame and in half edges of its cubes; points are complex numbers: see `rpd.envs.pusht`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpd.envs import pusht
from rpd.teachers.scripted.plan import APPROACH, DESCEND, HOLD, MAX_PUSH, PUSH, Plan, View, axes, heading, over, ramp

LEVER = 3.9
"""c: the T rests on its corners, which are further out than its points on average."""
CONE = 0.45
"""Largest angle between a push and the face normal, rad: well within the friction cone."""
KEEP = 0.6
"""A push continues while the cosine between its motion and the wanted one is at least this fraction of the best cosine."""
DETOUR = 0.01
"""Required gain in that cosine per half edge of additional distance to a contact."""
STANDOFF, TOUCH = 1.5, 0.95
"""Distance from a face of the tool when it comes down next to it, and when it pushes: closed fingers extend 0.7 to 1.2."""
APART = 0.4
"""Spacing of the candidate contacts."""
CROSS = 3.0
"""Height above the T's center at which the tool crosses it."""
ASIDE, SLIP = 0.5, 0.8
"""Distance along a face at which a push may start from the chosen contact, and continue from the nearest contact."""
DONE = 0.12
"""Mean distance of the T's points to their targets below which the task is done."""


def _contacts() -> tuple[Tensor, Tensor]:
    """Contact points [C] on the faces and their outward normals, without points where fingers slip off or do not fit."""
    (bar, _), (thick, wide) = pusht.BAR
    (stem, _), (long, thin) = pusht.STEM
    edge, corner = 0.4, STANDOFF + 0.5
    under, end = bar + thick, stem + long
    faces = [  # start, direction, length, normal: those at y >= 0, mirrored for the others
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


def push_t(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Move next to the best contact, over the T if it is in the way, and push from there."""
    points, normals, rows = _POINTS.to(v.tcp.device), _NORMALS.to(v.tcp.device), torch.arange(len(v.tcp), device=v.tcp.device)
    frame = torch.polar(v.half, torch.angle(heading(axes(v.object_quat)[:, 0])))
    way, tool = heading(v.target - v.object) / frame, heading(v.tcp - v.object) / frame
    turn = torch.angle(heading(axes(v.target_quat)[:, 0]) / frame)

    standoff = points + STANDOFF * normals  # [C]
    apart = (tool[:, None] - standoff).abs()  # [N, C]
    merits, _ = push(way[:, None], turn[:, None], points, normals)
    best = (merits - DETOUR * apart).argmax(1)
    aim = standoff[best]
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
    blocked = _crosses(tool, aim, (0.7 + 0.2 * (height / CROSS).clamp(0, 1)) * STANDOFF)  # a tool on its way down continues

    # Straight to the face until contact, then along the path of the contact point, but not beyond the end of the face.
    motion = torch.lerp(motion, _dot(motion, normal) * normal, ramp(gap, TOUCH, 0.2).to(motion.dtype))
    motion = motion - slip * (1 - APART / 2 / slip.abs().clamp(min=1e-6)).clamp(min=0)
    ahead = motion / (motion.abs() * v.half / MAX_PUSH).clamp(min=1)
    leave = standoff[here] + 0.3 * normal - tool
    level = torch.cat([_flat(torch.where(pushing, ahead, leave) * frame), (-height * v.half)[:, None]], -1)
    there = v.object + torch.nn.functional.pad(_flat(aim * frame), (0, 1))
    around = over(v.tcp, there, CROSS * v.half * blocked, v.half)
    done = (way.abs().square() + (pusht.GYRATION * turn).square()).sqrt() < DONE

    move = torch.where((pushing | close)[:, None], level, around) * ~done[:, None]
    straight = -torch.angle(v.fingers.square().square()) / 4  # along an axis of the base, independent of the T
    phase = torch.where(pushing, PUSH, torch.where(blocked | close, APPROACH, DESCEND))
    return Plan(move, straight * ~done, torch.zeros_like(done), torch.where(done, HOLD, phase))


def push(way: Tensor, turn: Tensor, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Best push of a T at a point; the arguments are broadcast.

    Args:
        way: displacement to the target.
        turn: rotation to the target, rad.
        point: contact point.
        normal: outward normal of the face at that point.

    Returns:
        Cosine between the resulting and the wanted motion, and the displacement of the contact point until the T is closest to
        the target.
    """
    lever = 1j * point / LEVER**2  # p x f / c² = <lever, f>
    swing = pusht.GYRATION**2 * turn
    # The wanted motion is (way, turn), a force's is (f, <lever, f>), and a turn has weight GYRATION²: their product is largest
    # for a force along way + swing * lever, or the closest force within the friction cone.
    against = torch.angle((way + swing * lever) * -normal.conj()).clamp(-CONE, CONE)
    force = -normal * torch.polar(torch.ones_like(against), against)
    spin = _dot(lever, force)
    size = 1 + (pusht.GYRATION * spin).square()
    along = _dot(way, force) + swing * spin
    wanted = (way.abs().square() + swing * turn).clamp(min=1e-9)
    return along / (wanted * size).sqrt(), along / size * (force + spin * 1j * point)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b.conj()).real


def _flat(z: Tensor) -> Tensor:
    """Complex numbers [N] as vectors [N, 2]."""
    return torch.stack([z.real, z.imag], -1)


def _within(tool: Tensor, margin: float) -> Tensor:
    """Mask [N] of tools inside the T, grown by `margin`."""
    inside = torch.zeros_like(tool.real, dtype=torch.bool)
    for (x, y), (dx, dy) in (pusht.BAR, pusht.STEM):
        inside |= ((tool.real - x).abs() < dx + margin) & ((tool.imag - y).abs() < dy + margin)
    return inside


def _crosses(start: Tensor, end: Tensor, margin: Tensor) -> Tensor:
    """Mask [N] of straight lines from start to end [N] that cross the T, grown by `margin` [N]."""
    hit, way = torch.zeros_like(margin, dtype=torch.bool), end - start
    for (x, y), (dx, dy) in (pusht.BAR, pusht.STEM):
        enter, leave = torch.zeros_like(margin), torch.ones_like(margin)
        for here, run, size in ((start.real - x, way.real, dx + margin), (start.imag - y, way.imag, dy + margin)):
            run = torch.where(run.abs() < 1e-6, 1e-6, run)
            first, last = (-size - here) / run, (size - here) / run
            enter, leave = torch.maximum(enter, torch.minimum(first, last)), torch.minimum(leave, torch.maximum(first, last))
        hit |= enter < leave
    return hit
