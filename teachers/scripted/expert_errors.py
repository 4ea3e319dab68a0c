"""How a scripted teacher is made weak in a chosen way."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from envs.privileged import Scene
from teachers.scripted.plan import PHASES, Plan
from teachers.scripted.trembling import Tremble


class Dials(Tremble):
    """The imperfections. All zero: the expert."""

    flip: float = Field(0.0, ge=0, le=1)
    """Probability of the wrong gripper command, drawn per label."""
    bias: float = Field(0.0, ge=0, le=0.2)
    """How far beside the object (m) the teacher believes it to be, as long as it does not hold it; Reach: the target."""
    bias_angle: float = 90.0
    """Direction of the bias in the base frame, degrees: 0 is +x (away from the base), 90 is +y (left)."""
    fail: Literal["approach", "descend", "grasp", "carry", "release", "push"] | None = None
    """Phase that goes wrong: the arm stops where it should move, the gripper does the opposite where it matters."""
    fail_rate: float = Field(1.0, ge=0, le=1)
    """Fraction of the episodes in which `fail` goes wrong."""
    modes: int = Field(1, ge=1, le=2)
    """2: while undecided, align with either pair of faces of the cube. The mean then aligns with neither."""
    samples: int = Field(8, ge=2, le=64)
    """Samples per label with modes=2."""
    ood: float | None = None
    """Objects further left than this (y, m, base frame) were not in the training data: the teacher is sure of the
    mirror image of the scene instead. Episodes that the environment marks as out of distribution are treated alike."""
    rise: float = Field(0.0, ge=0, le=0.1)
    """How far up (m) the hand sets out while its fingers close, not waiting to feel the cube: an imitator that cannot see
    whether they hold it would wait for ever where the expert waits one step."""
    bins: int | None = Field(None, ge=2, le=1024)
    """Answer as a VLA that speaks in tokens does: with a distribution over this many bins of each dimension."""


PRESETS: dict[str, dict[str, dict[str, str]]] = {
    "noisy": {
        "Reach": {"noise": "2"},
        "PushCube": {"noise": "0.5"},
        "PullCube": {"noise": "0.53"},
        "PickCube": {"noise": "0.4"},
        "PushT": {"noise": "0.35"},
        "StackCube": {"noise": "0.29"},
        "PlaceInBin": {"noise": "0.48"},
        "maniskill/PickCube-v1": {"noise": "0.26"},
        "libero": {"noise": "0.57"},
    },
    "biased": {
        "Reach": {"bias": "0.03"},
        "PushCube": {"bias": "0.028"},
        "PullCube": {"bias": "0.0295"},
        "PickCube": {"bias": "0.036"},
        "PushT": {"bias": "0.006"},
        "StackCube": {"bias": "0.035"},
        "PlaceInBin": {"bias": "0.034"},
    },
    "forgetful": {
        "Reach": {"fail": "approach", "fail_rate": "0.7"},
        "PushCube": {"fail": "push", "fail_rate": "0.7"},
        "PullCube": {"fail": "push", "fail_rate": "0.7"},
        "PickCube": {"fail": "grasp", "fail_rate": "0.7"},
        "PushT": {"fail": "push", "fail_rate": "0.7"},
        "StackCube": {"fail": "grasp", "fail_rate": "0.7"},
        "PlaceInBin": {"fail": "grasp", "fail_rate": "0.7"},
    },
}
"""Weak teachers by name: dials by task, or by its base name. On the tabletop with a Panda each of them solves between
10 and 50 % of the episodes (noisy Reach: 70 %, as one lucky moment is enough)."""

_FLIPPED = ("grasp", "carry", "release")
_HASH = (73856093, 19349663)


def believe(scene: Tensor, dials: Dials, contact: str = "object_pos") -> Tensor:
    """Return the scene [N, Scene.dim] as the teacher sees it: mirrored out of distribution, shifted by the bias.

    Args:
        scene: the truth.
        dials: the imperfections.
        contact: field that the bias shifts.
    """
    if dials.bias == 0 and dials.ood is None:
        return scene
    scene = scene.clone()
    if dials.ood is not None:
        side = 1 - 2 * out_of_distribution(scene, dials.ood).float()
        for field in ("object_pos", "target_pos"):
            Scene.get(scene, field)[:, 1] *= side
    if dials.bias:
        free = dials.bias * (Scene.get(scene, "grasped")[:, 0] < 0.5)
        angle = math.radians(dials.bias_angle)
        position = Scene.get(scene, contact)
        position[:, 0] += free * math.cos(angle)
        position[:, 1] += free * math.sin(angle)
    return scene


def out_of_distribution(scene: Tensor, left: float) -> Tensor:
    """Rows [N] bool where the object is further left than `left` (y, m), or that the environment marks."""
    return (Scene.get(scene, "object_pos")[:, 1] > left) | (Scene.get(scene, "ood")[:, 0] > 0.5)


def lottery(scene: Tensor) -> Tensor:
    """A number [N] in [0, 1) per episode, uniform over episodes: a hash of where the target stands, to the millimetre.

    The target stays there for the whole episode (a lower cube, unless it is knocked), so the draw needs no memory.
    """
    cells = (Scene.get(scene, "target_pos")[:, :2] * 1000).round().long()
    mixed = (cells * cells.new_tensor(_HASH)).sum(-1)
    for _ in range(2):  # xorshift-multiply rounds spread neighbouring cells
        mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
    return mixed.double() / 2**31


def forget(plan: Plan, scene: Tensor, dials: Dials) -> Plan:
    """Return the plan with the failing phase gone wrong, in the episodes drawn for it."""
    if dials.fail is None:
        return plan
    wrong = (plan.phase == PHASES.index(dials.fail)) & (lottery(scene) < dials.fail_rate)
    if dials.fail in _FLIPPED:
        return Plan(plan.move, plan.turn, plan.open ^ wrong, plan.phase)
    return Plan(plan.move * ~wrong[:, None], plan.turn * ~wrong, plan.open, plan.phase)
