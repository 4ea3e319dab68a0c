"""What a perfect privileged teacher does: pure, memoryless functions of the scene, so that they are right in any state.

Every phase is decided from geometry alone. Where a decision could chatter, its tolerance widens once the decision
shows in the scene (the gripper has begun to close, the cube rests on its place).

Experts are made to be imitated. A student that knows the cube's place to within a centimetre learns the mean of the
actions for all places that it takes for possible; decisions are therefore as soft as the fingers allow, so that this
mean still solves the task (measured in tests/teachers/test_scripted_tabletop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from envs.specs import ActionSpec
from teachers.scripted.grasp import move, pick, place_in_bin, stack
from teachers.scripted.plan import APPROACH, CARRY, DESCEND, GRASP, PUSH, RELEASE, Plan, View
from teachers.scripted.push import push
from teachers.scripted.tee import push_tee

GAINS = {"tabletop": 0.45, "maniskill": 1.0, "libero": 1.5}
"""Fraction of the remaining way commanded per control step, by simulator.

Tabletop's actions move a target that the arm follows with a lag: more would overshoot. ManiSkill's start from the
measured pose, and the arm covers less than half of the command in one step: less would be slow.
"""


def reach(v: View, second_mode: bool = False, rise: float = 0.0) -> Plan:
    """Move the tcp to the target."""
    still = torch.zeros_like(v.half)
    return Plan(v.target - v.tcp, still, still == 0, torch.full_like(still, APPROACH, dtype=torch.int64))


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
    "PushT": Expert(push_tee, (APPROACH, DESCEND, PUSH)),
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
