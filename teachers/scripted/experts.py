"""What a perfect privileged teacher does: pure, memoryless functions of the scene, so that they are right in any state.

Every phase is decided from geometry alone. Where a decision could chatter, its tolerance widens once the decision
shows in the scene (the gripper has begun to close, the cube rests on its place).

Experts are made to be imitated. A student that knows the cube's place to within a centimetre learns the mean of the
actions for all places that it takes for possible; decisions are therefore as soft as the fingers allow, so that this
mean still solves the task (measured in tests/teachers/test_scripted_tabletop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from envs.specs import ActionSpec, Scene

PHASES = ("approach", "descend", "grasp", "carry", "release", "push", "hold")
APPROACH, DESCEND, GRASP, CARRY, RELEASE, PUSH, HOLD = range(len(PHASES))

GAINS = {"tabletop": 0.45, "maniskill": 1.0, "libero": 1.5}
"""Fraction of the remaining way commanded per control step, by simulator.

Tabletop's actions move a target that the arm follows with a lag: more would overshoot. ManiSkill's start from the
measured pose, and the arm covers less than half of the command in one step: less would be slow.
"""
HOVER = 3.5
"""Height above the contact point at which the gripper travels. Lengths around the cube are in half edges."""
FINGER = 0.012
"""Half the thickness of a closed gripper, m."""
MAX_PUSH = 0.045
"""The target while pushing is at most this far ahead, m: faster, and the cube slides away."""
TRAVEL = 0.27
"""LIBERO: height above the table at which things are carried, m; 0.1 above their place where that is higher."""
FITS = 0.5
"""Turned by less than this to the faces (rad), the cube fits between the open fingers: they go down, turning on the way."""
COMMIT = 0.35
"""Closer than this to one of two grasp orientations (rad), a teacher with two modes has made up its mind."""


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
        self.object_quat = Scene.get(scene, "object_quat")
        tcp_axes = axes(Scene.get(scene, "tcp_quat"))
        self.tcp_z = tcp_axes[:, 2]
        self.fingers = _heading(tcp_axes[:, 1])


def axes(quat: Tensor) -> Tensor:
    """Return the axes x, y, z [N, 3, 3] of bodies with orientation quat (wxyz) [N, 4], one per row."""
    w, u = quat[:, None, :1], quat[:, None, 1:]
    e = torch.eye(3, device=quat.device).expand(len(quat), 3, 3)
    twist = 2 * torch.linalg.cross(u, e)
    return e + w * twist + torch.linalg.cross(u, twist)  # e + 2w (u x e) + 2 u x (u x e)


def face_turn(v: View) -> Tensor:
    """Rotation [N] that aligns the fingers with the nearest faces of the cube, in [-45, 45] degrees.

    The fourth power of a heading forgets quarter turns, and a vertical axis has none: summing over the
    cube's axes gives its heading whichever face is up.
    """
    cube = _heading(axes(v.object_quat)).square().square().sum(-1)
    return torch.angle(cube * v.fingers.conj().square().square()) / 4


def other_faces(turn: Tensor) -> Tensor:
    """The shorter rotation [N] to the cube's other pair of faces."""
    return turn - torch.copysign(torch.full_like(turn, torch.pi / 2), turn)


def _heading(v: Tensor) -> Tensor:
    """The horizontal part of vectors [..., 3] as complex numbers [...]: their product adds angles."""
    return torch.complex(v[..., 0], v[..., 1])


def _mode(turn: Tensor, second: bool) -> Tensor:
    """The rotation of a teacher's first or second mode: while undecided, the second goes to the other faces."""
    return torch.where(turn.abs() > COMMIT, other_faces(turn), turn) if second else turn


def _ramp(x: Tensor, start: Tensor | float, width: Tensor | float) -> Tensor:
    """0 below start, 1 above start + width, linear between."""
    return ((x - start) / width).clamp(0, 1)


def _over(here: Tensor, there: Tensor, height: Tensor, slack: Tensor | float = 0.01) -> Tensor:
    """Way [N, 3] from here to `height` [N] above there; sideways only once within `slack` (m) of that height."""
    way = there - here
    climb = way[:, 2] + height
    sideways = 1 - _ramp(climb, slack, 0.02)
    return torch.cat([way[:, :2] * sideways[:, None], climb[:, None]], -1)


def _grasp(v: View, turn: Tensor, rise: float, empty: float = 0.1) -> Plan:
    """Above the cube, aligned; down with open fingers; close, and once they do, go up by `rise` (m). Once grasped: stay.

    Narrower than `empty` (a fraction of fully open), the fingers hold nothing.
    """
    way = v.object - v.tcp
    aside = way[:, :2].norm(dim=-1)
    slack = torch.where(v.gripper < 0.85, 1.6, 1.0) * v.half  # closing has begun: finish it
    missed = v.gripper < empty  # open and start again
    close = (aside < 0.8 * slack) & (way[:, 2].abs() < 0.6 * slack) & ~missed
    misaligned = torch.maximum(_ramp(aside, 0.6 * v.half, 1.2 * v.half), _ramp(turn.abs(), FITS, 0.2))
    raised = torch.where(v.gripper < 0.7, 1.0, misaligned) * ~close
    phase = torch.where(close, GRASP, torch.where(raised > 0.99, APPROACH, DESCEND))
    move = _over(v.tcp, v.object, HOVER * v.half * raised, v.half)
    if rise:
        move[:, 2] = torch.where(close & (v.gripper < 0.7), rise, move[:, 2])
    return Plan(move, turn, ~close, phase)


def _either(condition: Tensor, yes: Plan, no: Plan) -> Plan:
    return Plan(
        torch.where(condition[:, None], yes.move, no.move),
        torch.where(condition, yes.turn, no.turn),
        torch.where(condition, yes.open, no.open),
        torch.where(condition, yes.phase, no.phase),
    )


def _place(
    v: View,
    turn: Tensor,
    place: Tensor,
    rests: Tensor,
    drop: float,
    near: float,
    hover: float | Tensor,
    rise: float,
    empty: float = 0.1,
) -> Plan:
    """Grasp, carry over `place` [N, 3], lower, let go, and retreat.

    Args:
        v: the scene.
        turn: [N] rotation that aligns the fingers.
        place: where the cube's centre shall be.
        rests: [N] bool: the cube is where it shall be.
        drop: height above `place` at which to let go, half edges.
        near: sideways distance at which the cube may be lowered, half edges.
        hover: height above `place` at which the cube travels, half edges; a number or [N].
        rise: see `_grasp`.
        empty: see `_grasp`.
    """
    way = place - v.object
    aside = way[:, :2].norm(dim=-1)
    let_go = (aside < 1.5 * near * v.half) & (-way[:, 2] < drop * v.half)
    carry = Plan(
        _over(v.object, place, hover * v.half * _ramp(aside, near * v.half, v.half)),
        torch.zeros_like(turn),
        let_go,
        torch.where(let_go, RELEASE, CARRY),
    )
    # Let go: wait for the fingers, then leave upwards and stay there.
    up = (v.object[:, 2] + HOVER * v.half - v.tcp[:, 2]).clamp(min=0) * (v.gripper > 0.75)
    away = Plan(
        torch.nn.functional.pad(up[:, None], (2, 0)),
        torch.zeros_like(turn),
        torch.ones_like(let_go),
        torch.full_like(carry.phase, HOLD),
    )
    return _either(v.grasped, carry, _either(rests, away, _grasp(v, turn, rise, empty)))


def reach(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Move the tcp to the target."""
    still = torch.zeros_like(v.half)
    return Plan(v.target - v.tcp, still, still == 0, torch.full_like(still, APPROACH, dtype=torch.int64))


def pick(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Grasp the cube and hold it at the target."""
    carry = Plan(v.target - v.object, torch.zeros_like(v.half), ~v.grasped, torch.full_like(v.half, CARRY, dtype=torch.int64))
    return _either(v.grasped, carry, _grasp(v, _mode(face_turn(v), second_mode), rise))


def stack(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Put the cube on the lower cube, let go and retreat."""
    place = v.target.clone()
    place[:, 2] += 2 * v.half
    off = (v.object - place).abs()
    rests = (off[:, :2].norm(dim=-1) < v.half) & (off[:, 2] < 0.4 * v.half)
    return _place(v, _mode(face_turn(v), second_mode), place, rests, drop=0.25, near=0.25, hover=2.5, rise=rise)


def place_in_bin(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Carry the cube over the walls of the bin, lower it, let go and retreat."""
    place = v.target.clone()
    place[:, 2] += v.half
    off = (v.object - place).abs()
    rests = (off[:, :2].amax(-1) < 3.5 * v.half) & (off[:, 2] < 2 * v.half)
    # Beside the bin, grasp along its wall: an open finger would land on it.
    turn = face_turn(v)
    to_bin = _heading(v.target - v.object)
    spread = to_bin.conj() * v.fingers * torch.polar(torch.ones_like(turn), turn)
    turn = torch.where((to_bin.abs() < 11 * v.half) & (spread.real.abs() > spread.imag.abs()), other_faces(turn), turn)
    return _place(v, _mode(turn, second_mode), place, rests, drop=1.2, near=1.0, hover=4.0, rise=rise)


def move(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """LIBERO: hold a thing where its scene says, carry it to its place, let go and retreat."""
    # Half turns do not matter to two fingers.
    turn = torch.angle((_heading(axes(v.object_quat)[:, 1]) * v.fingers.conj()).square()) / 2
    # Over whatever stands between, walls of an open drawer included, but not out of the arm's reach.
    hover = (TRAVEL - v.target[:, 2]).clamp(min=0.1) / v.half
    off = (v.object - v.target).abs()
    rests = (off[:, :2].norm(dim=-1) < v.half) & (off[:, 2] < 1.2 * v.half)
    return _place(v, turn, v.target, rests, drop=0.6, near=0.8, hover=hover, rise=rise, empty=0.02)


def push(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Go behind the cube, on the far side from the target, and push it there with closed fingers.

    Pulling towards the base is the same: the far side is then beyond the cube, and the way there is above it.
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
    centred = 1 - _ramp(aside.abs(), 0.5 * v.half, 0.7 * v.half)
    step = torch.lerp(gap - 0.5 * v.half, (left + gap.clamp(min=0)).clamp(max=MAX_PUSH), centred)
    forward = ahead * step[:, None] - side * aside[:, None]
    there = torch.cat([v.object[:, :2] - ahead * (contact + v.half)[:, None], v.object[:, 2:]], -1)
    raised = _ramp((there - v.tcp)[:, :2].norm(dim=-1), 0.8 * v.half, v.half)
    around = _over(v.tcp, there, HOVER * v.half * raised, v.half)
    done = left < 0.5 * v.half

    move = torch.where(pushing[:, None], torch.cat([forward, height[:, None]], -1), around) * ~done[:, None]
    # Both fingertips touch; half turns do not matter.
    turn = torch.angle((_heading(side) * v.fingers.conj()).square()) / 2
    phase = torch.where(pushing, PUSH, torch.where(raised > 0.99, APPROACH, DESCEND))
    return Plan(move, turn * ~done, torch.zeros_like(done), torch.where(done, HOLD, phase))


class Expert(NamedTuple):
    """One task."""

    plan: Callable[[View, bool, float], Plan]
    """`(scene, second_mode, rise) -> plan`."""
    phases: tuple[int, ...]
    """Phases that it goes through."""
    contact: str = "object_pos"
    """Field of the scene that says where the tool has to go first."""


_GRASP = (APPROACH, DESCEND, GRASP, CARRY)
EXPERTS = {
    "Reach": Expert(reach, (APPROACH,), contact="target_pos"),
    "PushCube": Expert(push, (APPROACH, DESCEND, PUSH)),
    "PullCube": Expert(push, (APPROACH, DESCEND, PUSH)),
    "PickCube": Expert(pick, _GRASP),
    "StackCube": Expert(stack, (*_GRASP, RELEASE)),
    "PlaceInBin": Expert(place_in_bin, (*_GRASP, RELEASE)),
    "libero": Expert(move, (*_GRASP, RELEASE)),
}
"""By base name of the task: `tabletop/PickCube` and `maniskill/PickCube-v1` are both PickCube."""


def base_name(task: str) -> str:
    """`maniskill/PickCube-v1` -> `PickCube`; every task of LIBERO -> `libero`: those that have a scene are alike."""
    if task.startswith("libero/"):
        return "libero"
    return task.rsplit("/", 1)[-1].split("-v", 1)[0]


def gain(task: str, delay: float = 0) -> float:
    """The gain (see GAINS) that suits a task's simulator, and a robot whose commands are `delay` control steps late.

    Who corrects an error again while the first correction is still on its way swings around the goal.
    """
    return GAINS.get(task.split("/", 1)[0], GAINS["tabletop"]) / (1 + delay)


def to_action(plan: Plan, v: View, action: ActionSpec, gain: float) -> Tensor:
    """Turn a plan into a normalised action [N, 7]; the tool is kept pointing down.

    Args:
        plan: what to do.
        v: the scene that it was made for.
        action: what +-1 means.
        gain: see GAINS.
    """
    # z_tool x (0, 0, -1) = (-zy, zx, 0) tilts the tool back to pointing down.
    turn = torch.stack([-v.tcp_z[:, 1], v.tcp_z[:, 0], plan.turn], -1)
    scale = plan.move.new_tensor(action.scale[:6])
    parts = [_limit(gain * plan.move / scale[:3]), _limit(gain * turn / scale[3:])]
    return torch.cat([*parts, (plan.open.float() * 2 - 1)[:, None]], -1)


def _limit(v: Tensor) -> Tensor:
    """Shorten vectors [N, 3] to fit into [-1, 1], keeping their direction."""
    return v / v.abs().amax(-1, keepdim=True).clamp(min=1)


def expert(task: str, scene: Tensor, action: ActionSpec) -> Tensor:
    """Return the expert's action [N, 7].

    Args:
        task: e.g. ``"tabletop/PickCube"``.
        scene: [N, Scene.dim].
        action: the action space.
    """
    view = View(scene)
    return to_action(EXPERTS[base_name(task)].plan(view, False, 0.0), view, action, gain(task))
