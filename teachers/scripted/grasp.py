"""Grasping experts: grasp the cube from above, then lift, stack or place it."""

from __future__ import annotations

import torch
from torch import Tensor

from rpd.teachers.scripted.plan import (
    APPROACH,
    CARRY,
    DESCEND,
    GRASP,
    HOLD,
    HOVER,
    RELEASE,
    Plan,
    View,
    axes,
    either,
    heading,
    over,
    ramp,
)

TRAVEL = 0.27
"""LIBERO: height above the table at which objects are carried, m; at least 0.1 above their place."""
FITS = 0.5
"""Angle to the faces, rad, below which the cube fits between the open fingers: they go down while turning."""
COMMIT = 0.35
"""Angle to one of two grasp orientations, rad, below which a teacher with two modes is committed to it."""


def face_turn(v: View) -> Tensor:
    """Rotation [N] that aligns the fingers with the nearest faces of the cube, in [-45, 45] degrees.

    The fourth power of a heading is invariant to quarter turns, and vanishes for a vertical axis: summing over the cube's axes
    gives its heading for any face up.
    """
    cube = heading(axes(v.object_quat)).square().square().sum(-1)
    return torch.angle(cube * v.fingers.conj().square().square()) / 4


def other_faces(turn: Tensor) -> Tensor:
    """The shorter rotation [N] to the cube's other pair of faces."""
    return turn - torch.copysign(torch.full_like(turn, torch.pi / 2), turn)


def _mode(turn: Tensor, second: bool) -> Tensor:
    """Rotation of a teacher's first or second mode: before committing, the second mode turns to the other faces."""
    return torch.where(turn.abs() > COMMIT, other_faces(turn), turn) if second else turn


def _grasp(v: View, turn: Tensor, early_lift: float, empty: float = 0.1) -> Plan:
    """Move above the cube and align, go down with open fingers, close, then lift by `early_lift` (m). Once grasped: stay.

    Fingers narrower than `empty` (a fraction of fully open) hold nothing.
    """
    way = v.object - v.tcp
    aside = way[:, :2].norm(dim=-1)
    slack = torch.where(v.gripper < 0.85, 1.6, 1.0) * v.half  # closing has started: complete it
    missed = v.gripper < empty  # open and start again
    close = (aside < 0.8 * slack) & (way[:, 2].abs() < 0.6 * slack) & ~missed
    misaligned = torch.maximum(ramp(aside, 0.6 * v.half, 1.2 * v.half), ramp(turn.abs(), FITS, 0.2))
    raised = torch.where(v.gripper < 0.7, 1.0, misaligned) * ~close
    phase = torch.where(close, GRASP, torch.where(raised > 0.99, APPROACH, DESCEND))
    move = over(v.tcp, v.object, HOVER * v.half * raised, v.half)
    if early_lift:
        move[:, 2] = torch.where(close & (v.gripper < 0.58), early_lift, move[:, 2])
    return Plan(move, turn, ~close, phase)


def _place(
    v: View,
    turn: Tensor,
    place: Tensor,
    rests: Tensor,
    drop: float,
    near: float,
    hover: float | Tensor,
    early_lift: float,
    empty: float = 0.1,
) -> Plan:
    """Grasp, carry over `place` [N, 3], lower, let go, and retreat.

    Args:
        v: the scene.
        turn: [N] rotation that aligns the fingers.
        place: target of the cube's center.
        rests: [N] bool: the cube is at its target.
        drop: height above `place` at which to let go, half edges.
        near: horizontal distance at which the cube may be lowered, half edges.
        hover: height above `place` at which the cube travels, half edges; a number or [N].
        early_lift: see `_grasp`.
        empty: see `_grasp`.
    """
    way = place - v.object
    aside = way[:, :2].norm(dim=-1)
    let_go = (aside < 1.5 * near * v.half) & (-way[:, 2] < drop * v.half)
    carry = Plan(
        over(v.object, place, hover * v.half * ramp(aside, near * v.half, v.half)),
        torch.zeros_like(turn),
        let_go,
        torch.where(let_go, RELEASE, CARRY),
    )
    # Released: wait for the fingers, then move up and stay there.
    up = (v.object[:, 2] + HOVER * v.half - v.tcp[:, 2]).clamp(min=0) * (v.gripper > 0.75)
    away = Plan(
        torch.nn.functional.pad(up[:, None], (2, 0)),
        torch.zeros_like(turn),
        torch.ones_like(let_go),
        torch.full_like(carry.phase, HOLD),
    )
    return either(v.grasped, carry, either(rests, away, _grasp(v, turn, early_lift, empty)))


def pick(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Grasp the cube and hold it at the target."""
    carry = Plan(v.target - v.object, torch.zeros_like(v.half), ~v.grasped, torch.full_like(v.half, CARRY, dtype=torch.int64))
    return either(v.grasped, carry, _grasp(v, _mode(face_turn(v), second_mode), early_lift))


def stack(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Put the cube on the lower cube, let go and retreat."""
    place = v.target.clone()
    place[:, 2] += 2 * v.half
    off = (v.object - place).abs()
    rests = (off[:, :2].norm(dim=-1) < v.half) & (off[:, 2] < 0.4 * v.half)
    return _place(v, _mode(face_turn(v), second_mode), place, rests, drop=0.25, near=0.25, hover=2.5, early_lift=early_lift)


def place_in_bin(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Carry the cube over the walls of the bin, lower it, let go and retreat."""
    place = v.target.clone()
    place[:, 2] += v.half
    off = (v.object - place).abs()
    rests = (off[:, :2].amax(-1) < 3.5 * v.half) & (off[:, 2] < 2 * v.half)
    # Next to the bin, grasp along its wall: an open finger would land on it.
    turn = face_turn(v)
    to_bin = heading(v.target - v.object)
    spread = to_bin.conj() * v.fingers * torch.polar(torch.ones_like(turn), turn)
    turn = torch.where((to_bin.abs() < 11 * v.half) & (spread.real.abs() > spread.imag.abs()), other_faces(turn), turn)
    return _place(v, _mode(turn, second_mode), place, rests, drop=1.2, near=1.0, hover=4.0, early_lift=early_lift)


def move(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """LIBERO: grasp an object at the grasp point of the scene, carry it to its place, let go and retreat."""
    # Two fingers are symmetric under half turns.
    turn = torch.angle((heading(axes(v.object_quat)[:, 1]) * v.fingers.conj()).square()) / 2
    # High enough to clear obstacles such as the walls of an open drawer, but within reach of the arm.
    hover = (TRAVEL - v.target[:, 2]).clamp(min=0.1) / v.half
    off = (v.object - v.target).abs()
    rests = (off[:, :2].norm(dim=-1) < v.half) & (off[:, 2] < 1.2 * v.half)
    return _place(v, turn, v.target, rests, drop=0.6, near=0.8, hover=hover, early_lift=early_lift, empty=0.02)
