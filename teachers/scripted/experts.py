"""Privileged experts: pure, memoryless functions of the scene, correct in any state.

Phases are decided from geometry alone. To avoid chattering, the tolerance of a decision widens once the decision is visible in
the scene (the gripper has started to close, the cube rests on its place).

Experts are designed for imitation. A student that localizes the cube to within a centimeter learns the mean action over all
positions it cannot distinguish; decisions are therefore as soft as the fingers allow, so that this mean still solves the task
(measured in tests/teachers/scripted/test_tabletop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rpd.envs.specs import ActionSpec
from rpd.teachers.scripted.grasp import move, pick, place_in_bin, stack
from rpd.teachers.scripted.plan import APPROACH, CARRY, DESCEND, GRASP, PUSH, RELEASE, Plan, View
from rpd.teachers.scripted.push import push
from rpd.teachers.scripted.pusht import push_t

GAINS = {"tabletop": 0.45, "maniskill": 1.0, "libero": 1.5}
"""Fraction of the remaining distance commanded per control step, by simulator.

Tabletop actions move a target that the arm follows with a lag: larger gains overshoot. ManiSkill actions start from the
measured pose, and the arm covers less than half of the command in one step: smaller gains are slow.
"""


def reach(v: View, second_mode: bool = False, early_lift: float = 0.0) -> Plan:
    """Move the tcp to the target."""
    still = torch.zeros_like(v.half)
    return Plan(v.target - v.tcp, still, still == 0, torch.full_like(still, APPROACH, dtype=torch.int64))


class Expert(NamedTuple):
    """Expert of one task."""

    plan: Callable[[View, bool, float], Plan]
    """`(scene, second_mode, early_lift) -> plan`."""
    phases: tuple[int, ...]
    """Phases of the plan."""
    contact: str = "object_pos"
    """Scene field with the first position that the tool moves to."""


_GRASP = (APPROACH, DESCEND, GRASP, CARRY)
EXPERTS = {
    "Reach": Expert(reach, (APPROACH,), contact="target_pos"),
    "PushCube": Expert(push, (APPROACH, DESCEND, PUSH)),
    "PullCube": Expert(push, (APPROACH, DESCEND, PUSH)),
    "PushT": Expert(push_t, (APPROACH, DESCEND, PUSH)),
    "PickCube": Expert(pick, _GRASP),
    "StackCube": Expert(stack, (*_GRASP, RELEASE)),
    "PlaceInBin": Expert(place_in_bin, (*_GRASP, RELEASE)),
    "libero": Expert(move, (*_GRASP, RELEASE)),
}
"""Experts by base name of the task: `tabletop/PickCube` and `maniskill/PickCube-v1` are both PickCube."""


def base_name(task: str) -> str:
    """`maniskill/PickCube-v1` -> `PickCube`; LIBERO tasks with a scene share one expert: `libero`."""
    if task.startswith("libero/"):
        return "libero"
    return task.rsplit("/", 1)[-1].split("-v", 1)[0]


def gain(task: str, delay: float = 0) -> float:
    """Gain (see GAINS) for a task's simulator and a robot with a command delay of `delay` control steps.

    Without the reduction for delay, a second correction during the delay of the first makes the arm oscillate around the goal.
    """
    return GAINS.get(task.split("/", 1)[0], GAINS["tabletop"]) / (1 + delay)


def to_action(plan: Plan, v: View, action: ActionSpec, gain: float) -> Tensor:
    """Convert a plan to a normalized action [N, 7]; the tool keeps pointing down.

    Args:
        plan: the plan.
        v: the scene of the plan.
        action: the action space, with the scale of ±1.
        gain: see GAINS.
    """
    # z_tool x (0, 0, -1) = (-zy, zx, 0) tilts the tool back to pointing down.
    turn = torch.stack([-v.tcp_z[:, 1], v.tcp_z[:, 0], plan.turn], -1)
    scale = plan.move.new_tensor(action.scale[:6])
    parts = [_limit(gain * plan.move / scale[:3]), _limit(gain * turn / scale[3:])]
    return torch.cat([*parts, (plan.open.float() * 2 - 1)[:, None]], -1)


def _limit(v: Tensor) -> Tensor:
    """Shorten vectors [N, 3] to fit in [-1, 1] with their direction unchanged."""
    return v / v.abs().amax(-1, keepdim=True).clamp(min=1)


def expert(task: str, scene: Tensor, action: ActionSpec) -> Tensor:
    """Return the expert's action [N, 7].

    Args:
        task: e.g. ``"tabletop/PickCube"``.
        scene: [N, ManipulationState.dim].
        action: the action space.
    """
    view = View(scene)
    return to_action(EXPERTS[base_name(task)].plan(view, False, 0.0), view, action, gain(task))
