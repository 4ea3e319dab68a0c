"""Expert that pushes or pulls a cube onto a disc."""

from __future__ import annotations

import torch

from rpd.teachers.scripted.plan import APPROACH, DESCEND, FINGER, HOLD, HOVER, MAX_PUSH, PUSH, Plan, View, heading, over, ramp


def push(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Move behind the cube, opposite to the target, and push it with closed fingers.

    Pulling towards the base is the same motion: the tool passes above the cube to its far side.
    """
    way = (v.target - v.object)[:, :2]
    left = way.norm(dim=-1)
    ahead = way / left.clamp(min=1e-6)[:, None]
    side = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    offset = (v.tcp - v.object)[:, :2]
    along, aside = (offset * ahead).sum(-1), (offset * side).sum(-1)
    contact = v.half + FINGER
    height = v.object[:, 2] - v.tcp[:, 2]

    behind = (along < -0.6 * v.half) & (along > -contact - 2.5 * v.half) & (aside.abs() < 1.5 * v.half)
    pushing = behind & (height.abs() < 0.8 * v.half)
    gap = -along - contact
    centred = 1 - ramp(aside.abs(), 0.5 * v.half, 0.7 * v.half)
    step = torch.lerp(gap - 0.5 * v.half, (left + gap.clamp(min=0)).clamp(max=MAX_PUSH), centred)
    forward = ahead * step[:, None] - side * aside[:, None]
    there = torch.cat([v.object[:, :2] - ahead * (contact + v.half)[:, None], v.object[:, 2:]], -1)
    raised = ramp((there - v.tcp)[:, :2].norm(dim=-1), 0.8 * v.half, v.half)
    around = over(v.tcp, there, HOVER * v.half * raised, v.half)
    done = left < 0.5 * v.half

    move = torch.where(pushing[:, None], torch.cat([forward, height[:, None]], -1), around) * ~done[:, None]
    # Both fingertips touch the cube; fingers are symmetric under half turns.
    turn = torch.angle((heading(side) * v.fingers.conj()).square()) / 2
    phase = torch.where(pushing, PUSH, torch.where(raised > 0.99, APPROACH, DESCEND))
    return Plan(move, turn * ~done, torch.zeros_like(done), torch.where(done, HOLD, phase))
