"""Gates that compare the teacher with the reward.

No critic here values an arbitrary action. But for actions a ~ N(mu, sigma²) with advantage A, the score function gives the
advantage of a small step from the student's mean to the teacher's, to first order and without bias:

    E[ A s ],  s = sum_d (a_d - mu_d) (m_d - mu_d) / sigma_d²

Both terms are over the continuous dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtr

from rpd.algorithms.distillation.gates import BEHAVIOR, Rows, register
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

DISAGREED = 0.1
"""agreement: g where teacher and reward disagree."""
LEVELS = 8
"""teacher-advantage: number of groups of states."""
TRUST = 0.2
"""trust-region: largest deviation of the ratio from 1 that counts."""


@register("agreement", "mean", keeps=(BEHAVIOR,), needs_reward=True)
def agreement(rows: Rows) -> Tensor:
    """Distill where reward and teacher pull to the same side: g = 1 if A s > 0, else 0.1 (in the spirit of RLAD, 2602.22495).

    s > 0 means that the action was on the teacher's side of the student's mean.
    """
    return torch.where(_advantage(rows) * _step(rows) > 0, 1.0, DISAGREED)


@register("teacher-advantage", "mean", keeps=(BEHAVIOR,), needs_reward=True)
def teacher_advantage(rows: Rows) -> Tensor:
    """Distill where the teacher is better by the critic: g = sigmoid(t), t = sum A s / sqrt(sum (A s)²) over like states.

    States are alike if the critic gives them a like value: 8 groups by V, standardized. t is the significance of the teacher's
    advantage there, and g = 1/2 where nothing is known. Groups are of one batch, so more environments give a sharper gate.
    """
    value = rows.batch["value"]
    mean, std = rows.world.mean_std(value)
    level = (ndtr((value - mean) / (std + 1e-8)) * LEVELS).long().clamp(0, LEVELS - 1)
    gain = (_advantage(rows) * _step(rows)).where(rows.valid, 0.0)
    sums = torch.zeros(2, LEVELS, device=gain.device).index_add(1, level, torch.stack([gain, gain.square()]))
    total, squares = rows.world.sum(sums)
    return (total / squares.sqrt().clamp_min(1e-8)).sigmoid()[level]


@register("trust-region", live=True, needs_reward=True)
def trust_region(student: ActionDistribution, action: Tensor, old_log_prob: Tensor, config: DistillConfig) -> Tensor:
    """Weaker where the update has made the action less likely: g = clip(r, 0.8, 1), r = pi(a) / pi_old(a): RPD's PPD baseline.

    RPD (arXiv 2503.05833) has no upper bound. Here g is at most 1.
    """
    return (student.log_prob(action) - old_log_prob).exp().clamp(1 - TRUST, 1.0)


def _advantage(rows: Rows) -> Tensor:
    """The reward's advantage [M], minus its mean over all ranks."""
    advantage = rows.batch["advantage"]
    return advantage - rows.world.mean_std(advantage)[0]


def _step(rows: Rows) -> Tensor:
    """The score s [M]."""
    student = rows.student
    toward = (rows.batch["action"] - student.mean) * (rows.teacher["mean"] - student.mean) / student.std.square()
    return toward.masked_fill(rows.discrete, 0.0).sum(-1)
