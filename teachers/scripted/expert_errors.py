"""Errors of scripted teachers: bias, failing phases, multiple modes, out-of-distribution mirroring."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from rpd.envs.privileged_state import ManipulationState
from rpd.teachers.scripted.noisy_teacher import ActionNoise
from rpd.teachers.scripted.plan import PHASES, Plan


class ExpertErrors(ActionNoise):
    """Errors of an expert; all zero: a perfect expert."""

    gripper_error_rate: float = Field(0.0, ge=0, le=1)
    """Probability of the wrong gripper command, drawn per label."""
    bias: float = Field(0.0, ge=0, le=0.2)
    """Offset of the perceived object position, m, until the object is grasped; in Reach: of the target."""
    bias_angle: float = 90.0
    """Direction of the bias in the base frame, degrees: 0 is +x (away from the base), 90 is +y (left)."""
    fail: Literal["approach", "descend", "grasp", "carry", "release", "push"] | None = None
    """Phase that fails: the arm stops instead of moving, or the gripper does the opposite in grasp, carry and release."""
    fail_rate: float = Field(1.0, ge=0, le=1)
    """Fraction of the episodes in which `fail` takes effect."""
    modes: int = Field(1, ge=1, le=2)
    """2: before committing, align with either pair of faces of the cube. The mean then aligns with neither."""
    samples: int = Field(8, ge=2, le=64)
    """Samples per label with modes=2."""
    ood: float | None = None
    """Objects further left than this (y, m, base frame) count as outside the training data: the teacher acts on the mirrored
    scene instead, as it does in episodes marked as out of distribution by the environment."""
    early_lift: float = Field(0.0, ge=0, le=0.1)
    """Height, m, that the hand already moves to while the fingers close, without waiting for contact. The expert waits one step
    there; an imitator that cannot see whether the fingers hold the cube would wait forever."""
    bins: int | None = Field(None, ge=2, le=1024)
    """Number of bins per dimension of a label's distribution, as for a VLA that outputs tokens; default: no bins."""


PRESETS: dict[str, dict[str, dict[str, str]]] = {
    "noisy": {
        "Reach": {"noise": "2"},
        "PushCube": {"noise": "0.5"},
        "PullCube": {"noise": "0.55"},
        "PickCube": {"noise": "0.37"},
        "PushT": {"noise": "0.35"},
        "StackCube": {"noise": "0.18"},
        "PlaceInBin": {"noise": "0.35"},
        "maniskill/PickCube-v1": {"noise": "0.26"},
        "libero": {"noise": "0.57"},
    },
    "biased": {
        "Reach": {"bias": "0.03"},
        "PushCube": {"bias": "0.026"},
        "PullCube": {"bias": "0.023"},
        "PickCube": {"bias": "0.03"},
        "PushT": {"bias": "0.006"},
        "StackCube": {"bias": "0.021"},
        "PlaceInBin": {"bias": "0.03"},
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
"""Presets of errors by task, or by its base name. On the tabletop with a Panda and its published limits, each preset solves
between 10 and 50 % of the episodes (noisy Reach: 55 %, as a single accurate moment is sufficient)."""

_FLIPPED = ("grasp", "carry", "release")
_HASH = (73856093, 19349663)


def perceived_state(scene: Tensor, errors: ExpertErrors, contact: str = "object_pos") -> Tensor:
    """Scene [N, ManipulationState.dim] as perceived by the teacher: mirrored if out of distribution, shifted by the bias.

    Args:
        scene: the true scene.
        errors: the expert's errors.
        contact: scene field shifted by the bias.
    """
    if errors.bias == 0 and errors.ood is None:
        return scene
    scene = scene.clone()
    if errors.ood is not None:
        side = 1 - 2 * out_of_distribution(scene, errors.ood).float()
        for field in ("object_pos", "target_pos"):
            ManipulationState.get(scene, field)[:, 1] *= side
    if errors.bias:
        free = errors.bias * (ManipulationState.get(scene, "grasped")[:, 0] < 0.5)
        angle = math.radians(errors.bias_angle)
        position = ManipulationState.get(scene, contact)
        position[:, 0] += free * math.cos(angle)
        position[:, 1] += free * math.sin(angle)
    return scene


def out_of_distribution(scene: Tensor, left: float) -> Tensor:
    """Mask [N] bool of rows with an object further left than `left` (y, m), or marked by the environment."""
    return (ManipulationState.get(scene, "object_pos")[:, 1] > left) | (ManipulationState.get(scene, "ood")[:, 0] > 0.5)


def per_episode_uniform(scene: Tensor) -> Tensor:
    """A number [N] in [0, 1) per episode, uniform over episodes: a hash of the target position in millimeters.

    The target stays fixed during an episode (a lower cube, unless it is pushed), so the number needs no memory.
    """
    cells = (ManipulationState.get(scene, "target_pos")[:, :2] * 1000).round().long()
    mixed = (cells * cells.new_tensor(_HASH)).sum(-1)
    for _ in range(2):  # xorshift-multiply rounds separate neighboring cells
        mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
    return mixed.double() / 2**31


def apply_failure(plan: Plan, scene: Tensor, errors: ExpertErrors) -> Plan:
    """Replace the plan in the failing phase, in the episodes selected for failure."""
    if errors.fail is None:
        return plan
    wrong = (plan.phase == PHASES.index(errors.fail)) & (per_episode_uniform(scene) < errors.fail_rate)
    if errors.fail in _FLIPPED:
        return Plan(plan.move, plan.turn, plan.open ^ wrong, plan.phase)
    return Plan(plan.move * ~wrong[:, None], plan.turn * ~wrong, plan.open, plan.phase)
