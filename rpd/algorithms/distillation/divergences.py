"""D(student, teacher): divergences of the student's action distribution from the teacher's, per observation.

Convention: every divergence is a **sum over action dimensions**. RPD (arXiv 2503.05833) averages instead, so its
lambda = 1 with A dimensions is a weight of 1/A here.

Continuous dimensions compare the student's Gaussian N(mu, sigma²) with the teacher's distribution, which is one of
- a Gaussian N(m, s²), with s at least `min_teacher_std`;
- the distribution q~ over grid cells, from the teacher's bins (`rpd.algorithms.distillation.binned`);
- the kernel density q~ of the teacher's samples, with bandwidth h = `kde_bandwidth`
  (`rpd.algorithms.distillation.kernel_density`).
A divergence may have several variants, which read different teacher fields; the first one that the teacher supports is used.

Discrete dimensions (a gripper) compare Bernoulli distributions, because a squared error to a sign trains a gripper slowly. p is
the probability of +1; the teacher's is (mean + 1) / 2, for a teacher of samples too.

Terms that a small sigma can make huge (1250 nats for an error of 1 at sigma = 0.02) grow only logarithmically above
`SOFT_CLIP`. Unlike a hard clip, this keeps a gradient for the samples with the largest errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rpd.algorithms.distillation import binned, kernel_density
from rpd.config import divergences
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import LOG_2PI, ActionDistribution

Teacher = dict[str, Tensor]
"""Fields of a `TeacherOutput` by name, each [N, ...]."""

SOFT_CLIP = 10.0
"""Nats per dimension above which a divergence grows logarithmically."""
HUBER_DELTA = 0.1
"""huber: error, in normalized action units, above which the loss is linear."""
STILL = 0.05
"""direction: length of a motion, in normalized action units, below which its direction counts less."""
MIN_PROB = 0.05
"""rkl and opd: lower bound of the teacher's probability of either value, which keeps the divergence finite."""


@dataclass(frozen=True)
class DivergenceVariant:
    """One variant of a divergence."""

    fn: Callable[..., Tensor]
    needs: frozenset[str]
    """Fields of `TeacherOutput` that `fn` reads."""
    precompute: Callable[[Tensor], dict[str, Tensor]] | None = None
    """With ``bin_logits``: fields that `fn` reads instead, computed once per observation from log q~ [N, A, CELLS]."""
    score: Callable[..., Tensor] | None = None
    """Divergence of sampled actions: `score(action [..., N, A], discrete [A], teacher, config)` returns the teacher's
    log-density of each dimension, and `fn` reads the result of `targets`."""
    targets: Callable[..., tuple[dict[str, Tensor], Tensor]] | None = None
    """With `score`: computes the targets [M] once per batch; None: `rpd.algorithms.distillation.opd.targets_of`."""
    in_ratio: bool = False
    """Whether it shifts the log-ratio of PPO's surrogate, by ``log_offset`` of its targets, instead of adding a loss."""
    check: Callable[[DistillConfig], None] | None = None
    """Raises a ConfigError for options that it does not support."""


DIVERGENCES: dict[str, list[DivergenceVariant]] = divergences.DIVERGENCES
"""Variants by name, the preferred one first; functions are `fn(student, teacher, config) -> [N]`."""


def _register(name: str, *needs: str, precompute: Callable[[Tensor], dict[str, Tensor]] | None = None) -> Callable:
    def add(fn: Callable) -> Callable:
        DIVERGENCES.setdefault(name, []).append(DivergenceVariant(fn, frozenset(needs), precompute))
        return fn

    return add


@_register("mse", "mean")
def mse(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d (mu_d - m_d)²: RPD's main loss (arXiv 2503.05833). Trains the mean only; averages the modes of a teacher."""
    return student.total(_gap(student, teacher).square(), bernoulli_forward(student, teacher))


@_register("l1", "mean")
def l1(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d |mu_d - m_d|: RPD's ablation. The gradient does not grow with the error; tends to the median of noisy labels."""
    return student.total(_gap(student, teacher).abs(), bernoulli_forward(student, teacher))


@_register("huber", "mean")
def huber(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d h(mu_d - m_d), h(x) = x² if |x| <= c, else c (2 |x| - c) (twice Huber's loss, 1964): mse, robust to outliers."""
    gap = _gap(student, teacher)
    loss = 2 * F.huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=HUBER_DELTA)
    return student.total(loss, bernoulli_forward(student, teacher))


@_register("nll", "mean")
def nll(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """-log pi_S(a_T): behavior cloning of the teacher's mean, RPD's `bc`. A density, so it can be negative.

    The gradient with respect to mu, (mu - m) / sigma², is 1 / (2 sigma²) times that of mse at the same weight.
    Discrete dimensions: the cross-entropy of p_T and p_S.
    """
    sigma = student_sigma(student, config)
    # 1/2 ((m - mu) / sigma)² + log sigma + 1/2 log 2 pi
    density = 0.5 * (_gap(student, teacher) / sigma).square() + sigma.log() + 0.5 * LOG_2PI
    return student.total(soft_clip(density), _cross_entropy(student.logits, probability(teacher)))


@_register("nearest", "samples", "mean")
def nearest(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """min_j sum_d (mu_d - a^j_d)²: mse to the nearest of the teacher's samples, so modes are not averaged.

    Ignores the sample density: one outlier near the student's mean is enough to keep it there.
    """
    return kernel_density.nearest(student.mean, teacher["samples"], ~student.discrete) + discrete_sum(
        student, bernoulli_forward(student, teacher)
    )


@_register("fkl", "bin_logits", "mean", precompute=binned.moments)
def fkl_bins(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) = sum_d sum_b q~_b (log q~_b - log P_b), P_b the student's mass in cell b; reads only moments of q~."""
    kl = teacher["neg_entropy"] + binned.cross_entropy(teacher, student.mean, student_sigma(student, config))
    return student.total(soft_clip(kl), bernoulli_forward(student, teacher))


@_register("rkl", "bin_logits", "mean", precompute=binned.steps)
def rkl_bins(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = sum_d sum_b P_b (log P_b - log q~_b): the direction of VLA-OPD, on the bins; mode-seeking.

    For a mean outside [-1, 1], all of P is in the outermost cell and the KL has no gradient; `binned.overshoot` with scale
    `bin_tail_std` pulls the mean back.
    """
    mean, sigma = student.mean, student_sigma(student, config)
    kl = binned.neg_entropy(mean, sigma) - binned.expected(teacher, mean, sigma)
    kl = kl + binned.overshoot(mean, -1, 1, config.bin_tail_std)
    return student.total(soft_clip(kl), _bernoulli_reverse(student, teacher))


@_register("fkl", "samples", "mean")
def fkl_samples(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) up to a constant: mean negative log-likelihood -1/S sum_j log pi_S(a^j), each sample with bandwidth h.

    A Gaussian's likelihood depends only on the first two moments of q~, so this is the KL of the Gaussian with these moments.
    """
    mean, sigma = kernel_density.moments(teacher["samples"], config.kde_bandwidth)
    kl = _gaussian_kl(student.mean - mean, sigma, student_sigma(student, config))
    return student.total(soft_clip(kl), bernoulli_forward(student, teacher))


@_register("rkl", "samples", "mean")
def rkl_samples(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = E_S[log pi_S(a) - log q~(a)], student actions against the samples' kernel density; mode-seeking.

    The density is over all dimensions jointly, so the soft clip applies to the mean over dimensions.
    """
    continuous = ~student.discrete
    dims = continuous.sum().clamp_min(1)
    sigma = student_sigma(student, config)
    kl = kernel_density.reverse_kl(student.mean, sigma, teacher["samples"], continuous, config.kde_bandwidth)
    return dims * soft_clip(kl / dims) + discrete_sum(student, _bernoulli_reverse(student, teacher))


@_register("fkl", "mean", "std")
def fkl(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) = sum_d log(sigma/s) + (s² + (mu - m)²) / (2 sigma²) - 1/2: covers all actions of the teacher."""
    kl = _gaussian_kl(_gap(student, teacher), teacher_sigma(student, teacher, config), student_sigma(student, config))
    return student.total(soft_clip(kl), bernoulli_forward(student, teacher))


@_register("rkl", "mean", "std")
def rkl(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = sum_d log(s/sigma) + (sigma² + (mu - m)²) / (2 s²) - 1/2: stays within the teacher's actions.

    The direction of VLA-OPD (arXiv 2603.26666) and of RPD's `ppd`, in closed variant.
    """
    kl = _gaussian_kl(_gap(student, teacher), student_sigma(student, config), teacher_sigma(student, teacher, config))
    return student.total(soft_clip(kl), _bernoulli_reverse(student, teacher))


@_register("neighborhood", "mean")
def neighborhood(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || N(m, c²)), c = `min_teacher_std`: a Gaussian of the width within which an action counts as the same solution.

    The feasible-action neighborhood of FAN-PPO (arXiv 2604.01570), around the teacher's action instead of the policy's own. It
    shapes the student's width, so sigma always has a gradient.
    """
    kl = _gaussian_kl(_gap(student, teacher), student.std, torch.full_like(student.std, config.min_teacher_std))
    return student.total(soft_clip(kl), _bernoulli_reverse(student, teacher))


@_register("direction", "mean")
def direction(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """min(|m| / c, 1) (1 - cos(mu, m)), c = `STILL`: the direction of motion only.

    The hint of VLAJS ("Jump-start reinforcement learning with vision-language-action regularization", 2026), over all
    continuous dimensions. The student's length is free, and a teacher that stands still has no direction.
    """
    mean, target = (x.masked_fill(student.discrete, 0.0) for x in (student.mean, teacher["mean"]))
    length, target_length = mean.norm(dim=-1).clamp_min(STILL), target.norm(dim=-1).clamp_min(STILL)
    moving = (target.norm(dim=-1) / STILL).clamp_max(1.0)
    loss = moving - (mean * target).sum(-1) / (length * target_length)
    return loss + discrete_sum(student, bernoulli_forward(student, teacher))


def bernoulli_entropy(p: Tensor) -> Tensor:
    """H(p) = -p log p - (1 - p) log(1 - p) in nats, 0 at p = 0 and p = 1."""
    q, tiny = 1 - p, torch.finfo(p.dtype).tiny
    return -p * p.clamp_min(tiny).log() - q * q.clamp_min(tiny).log()


def discrete_sum(student: ActionDistribution, discrete: Tensor) -> Tensor:
    """Sum over the discrete dimensions [N], for divergences that are joint over the continuous ones."""
    return discrete.masked_fill(~student.discrete, 0.0).sum(-1)


def _gap(student: ActionDistribution, teacher: Teacher) -> Tensor:
    return student.mean - teacher["mean"]


def student_sigma(student: ActionDistribution, config: DistillConfig) -> Tensor:
    """The student's standard deviation [N, A], without gradient if `detach_std`."""
    return student.std.detach() if config.detach_std else student.std


def teacher_sigma(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """The teacher's standard deviation [N, A], at least `min_teacher_std`; 1 in discrete dimensions, where it has none."""
    return teacher["std"].masked_fill(student.discrete, 1.0).clamp_min(config.min_teacher_std)


def gaussian_log_density(action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of N(mean, std²) per dimension, at actions [..., N, A]."""
    return -0.5 * ((action - mean) / std).square() - std.log() - 0.5 * LOG_2PI


def probability(teacher: Teacher) -> Tensor:
    """The teacher's p(+1) [N, A]; finite but meaningless in continuous dimensions."""
    return ((teacher["mean"] + 1) / 2).clamp(0, 1)


def _gaussian_kl(gap: Tensor, sigma_p: Tensor, sigma_q: Tensor) -> Tensor:
    """KL(P || Q) per dimension, of Gaussians whose means differ by `gap`."""
    return (sigma_q / sigma_p).log() + (sigma_p.square() + gap.square()) / (2 * sigma_q.square()) - 0.5


def _cross_entropy(logits: Tensor, p: Tensor) -> Tensor:
    """-p log p_S - (1 - p) log(1 - p_S) = log(1 + e^l) - p l."""
    return F.softplus(logits) - p * logits


def bernoulli_forward(student: ActionDistribution, teacher: Teacher) -> Tensor:
    """KL(T || S) [N, A] of Bernoullis: the cross-entropy minus the teacher's entropy, so it is zero iff they are equal."""
    p = probability(teacher)
    return _cross_entropy(student.logits, p) - bernoulli_entropy(p)


def _bernoulli_reverse(student: ActionDistribution, teacher: Teacher) -> Tensor:
    """KL(S || T) = p_S log(p_S / p_T) + (1 - p_S) log((1 - p_S) / (1 - p_T))."""
    p, logits = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB), student.logits
    plus = logits.sigmoid() * (F.logsigmoid(logits) - p.log())
    minus = (-logits).sigmoid() * (F.logsigmoid(-logits) - (1 - p).log())
    return plus + minus


def soft_clip(nats: Tensor) -> Tensor:
    """Return x up to c, then c (1 + log(x / c)): continuously differentiable, monotone, nonzero gradient everywhere."""
    return torch.where(nats > SOFT_CLIP, SOFT_CLIP * (1 + (nats.clamp_min(SOFT_CLIP) / SOFT_CLIP).log()), nats)
