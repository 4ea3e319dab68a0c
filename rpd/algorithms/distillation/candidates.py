"""Divergences over K candidate actions: rank (PLD) and gap (DBiLD). A score per action is all that they need of a teacher.

The candidates of a dimension are its student's or its teacher's quantiles at levels (k - 1/2) / K. With samples, whose density
is joint, they are student actions mu + sigma eps, and the samples themselves. Scores are log-densities s_k of the student and
t_k of the teacher, [K, N, D]: D is the number of dimensions, or 1 for the joint density.

Discrete dimensions, which have two candidates, use the forward Bernoulli KL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.special import ndtri

from rpd.algorithms.distillation import binned, kernel_density
from rpd.algorithms.distillation.divergences import (
    DIVERGENCES,
    DivergenceVariant,
    Teacher,
    bernoulli_forward,
    gaussian_log_density,
    student_sigma,
    teacher_sigma,
)  # fmt: skip
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

COUNT = 8
"""Candidates per dimension, K; gap: per side."""


def plackett_luce(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_i softmax(t)_i [s_i - log sum_{j >= i} exp s_j], in the teacher's order (PLD, arXiv 2506.12542).

    The likelihood of the teacher's ranking under the student (Plackett and Luce), each place weighted by the teacher's
    probability of its candidate.

    Args:
        student: [K, ...] scores s.
        teacher: [K, ...] scores t.
    """
    order = teacher.argsort(0, descending=True)
    s, t = student.gather(0, order), teacher.gather(0, order)
    rest = s.flip(0).logcumsumexp(0).flip(0)
    return -(t.softmax(0) * (s - rest)).sum(0)


def pairwise_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax_ij(t_i - t_j) || softmax_ij(s_i - s_j)) over pairs i < j in the teacher's order (BiLD, arXiv 2406.13555).

    Switch-KD's DBiLD (dynamic bi-directional logits difference) applies it to the candidates of both sides. Unlike a KL of the
    scores themselves, it compares shapes: a constant offset of either density drops out.

    Args:
        student: [K, ...] scores s.
        teacher: [K, ...] scores t.
    """
    order = teacher.argsort(0, descending=True)
    first, second = torch.triu_indices(len(teacher), len(teacher), 1, device=teacher.device)
    s, t = student.gather(0, order), teacher.gather(0, order)
    log_s, log_t = ((x[first] - x[second]).log_softmax(0) for x in (s, t))
    return (log_t.exp() * (log_t - log_s)).sum(0)


@dataclass(frozen=True)
class Kind:
    """A kind of teacher: its fields, its log-density [K, N, D] at actions [K, N, A], and its candidates [K, N, A]."""

    needs: frozenset[str]
    log_density: Callable[[ActionDistribution, Teacher, Tensor, DistillConfig], Tensor]
    candidates: Callable[[ActionDistribution, Teacher, DistillConfig], Tensor]
    precompute: Callable[[Tensor], dict[str, Tensor]] | None = None
    joint: bool = False
    """Whether the density is one of all continuous dimensions together."""


def rank(kind: Kind, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """`plackett_luce` [N] over the student's candidates, summed over dimensions."""
    actions = own_candidates(kind, student)
    scores = student_scores(kind, student, actions, config), kind.log_density(student, teacher, actions, config)
    return _total(kind, student, teacher, plackett_luce(*scores))


def gap(kind: Kind, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """`pairwise_gap` [N] over the teacher's candidates and over the student's, summed over dimensions."""
    terms = []
    for actions in (kind.candidates(student, teacher, config), own_candidates(kind, student)):
        scores = student_scores(kind, student, actions, config), kind.log_density(student, teacher, actions, config)
        terms.append(pairwise_gap(*scores))
    return _total(kind, student, teacher, terms[0] + terms[1])


@torch.no_grad()
def own_candidates(kind: Kind, student: ActionDistribution) -> Tensor:
    """The student's K candidates [K, N, A], without gradient; drawn from torch's global generator if the density is joint."""
    if kind.joint:
        half = torch.randn(COUNT // 2, *student.mean.shape, device=student.mean.device)
        return student.mean + student.std * torch.cat([half, -half])
    return _quantiles(student.mean, student.std)


def student_scores(kind: Kind, student: ActionDistribution, actions: Tensor, config: DistillConfig) -> Tensor:
    """The student's log-density [K, N, D] of actions [K, N, A]."""
    return _summed(kind, student, gaussian_log_density(actions, student.mean, student_sigma(student, config)))


def _quantiles(mean: Tensor, std: Tensor) -> Tensor:
    levels = (torch.arange(COUNT, device=mean.device) + 0.5) / COUNT
    return mean + std * ndtri(levels)[:, None, None]


def _summed(kind: Kind, student: ActionDistribution, density: Tensor) -> Tensor:
    """Per dimension as it is [K, N, A]; joint: the sum over the continuous dimensions [K, N, 1]."""
    return density.masked_fill(student.discrete, 0.0).sum(-1, keepdim=True) if kind.joint else density


def _total(kind: Kind, student: ActionDistribution, teacher: Teacher, terms: Tensor) -> Tensor:
    """Sum of terms [N, D] and of the discrete dimensions: [N]."""
    discrete = bernoulli_forward(student, teacher)
    if kind.joint:
        return terms[..., 0] + discrete.masked_fill(~student.discrete, 0.0).sum(-1)
    return student.total(terms, discrete)


def _of_gaussian(student: ActionDistribution, teacher: Teacher, actions: Tensor, config: DistillConfig) -> Tensor:
    return gaussian_log_density(actions, teacher["mean"], teacher_sigma(student, teacher, config))


def _of_bins(student: ActionDistribution, teacher: Teacher, actions: Tensor, config: DistillConfig) -> Tensor:
    return binned.tailed_log_density(teacher["log_mass"], actions, config.bin_tail_std)


def _of_samples(student: ActionDistribution, teacher: Teacher, actions: Tensor, config: DistillConfig) -> Tensor:
    return kernel_density.log_density(actions, teacher["samples"], ~student.discrete, config.kde_bandwidth)[..., None]


def _gaussian_candidates(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    return _quantiles(teacher["mean"], teacher_sigma(student, teacher, config))


def _bin_candidates(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Centers of the first cells that have at least the mass (k - 1/2) / K below their upper edge."""
    levels = (torch.arange(COUNT, device=student.mean.device) + 0.5) / COUNT
    below = teacher["log_mass"].exp().cumsum(-1)
    cell = torch.searchsorted(below, levels.expand(*below.shape[:-1], COUNT).contiguous()).clamp_max(binned.CELLS - 1)
    return (cell * binned.WIDTH - 1 + binned.WIDTH / 2).movedim(-1, 0)


def _samples(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    return teacher["samples"].movedim(-2, 0)


KINDS = (
    Kind(frozenset({"bin_logits", "mean"}), _of_bins, _bin_candidates, lambda log_mass: {"log_mass": log_mass}),
    Kind(frozenset({"samples", "mean"}), _of_samples, _samples, joint=True),
    Kind(frozenset({"mean", "std"}), _of_gaussian, _gaussian_candidates),
)
for _kind in KINDS:
    for _name, _fn in (("rank", rank), ("gap", gap)):
        DIVERGENCES[_name].append(DivergenceVariant(partial(_fn, _kind), _kind.needs, _kind.precompute))
