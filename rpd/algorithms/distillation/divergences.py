"""D(student, teacher): how far the student's action distribution is from the teacher's, per observation.

Convention: every divergence is a **sum over action dimensions**. RPD (arXiv 2503.05833) averages instead, so its
lambda = 1 with A dimensions is a weight of 1/A here.

Continuous dimensions compare the student's Gaussian N(mu, sigma²) with the teacher's: a Gaussian N(m, s²) with s floored at
`teacher_std`, the distribution q~ over the cells of a grid that its bins are blurred onto (`rpd.distill.bins`), or the kernel
density q~ about its samples, of bandwidth h = `teacher_std` (`rpd.distill.samples`).
A divergence may have several forms, which differ in what they need of the teacher; the first that it can serve is used.

Discrete dimensions (a gripper) compare Bernoullis: a squared error to a sign teaches a gripper slowly. There p is the
probability of +1 on each side, the teacher's being (mean + 1) / 2, also where it gives samples.

Terms that a small sigma can blow up (1250 nats for an error of 1 at sigma = 0.02) grow only logarithmically above
`SOFT_CLIP`: unlike with a hard clip, the samples that are furthest off still pull.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rpd.config import DistillConfig
from rpd.distill import bins, samples
from students.distribution import LOG_2PI, ActionDistribution

Teacher = dict[str, Tensor]
"""Fields of a `TeacherOutput` by name, each [N, ...]."""

SOFT_CLIP = 10.0
"""Nats per dimension above which nll, fkl and rkl grow logarithmically."""
HUBER_DELTA = 0.1
"""huber: the gap, in normalised action units, above which it grows linearly."""
MIN_PROB = 0.05
"""rkl and opd: floor of the teacher's probability of either value, so that a sure teacher is not infinitely far."""


@dataclass(frozen=True)
class Form:
    """One form of a divergence, or of a score (`rpd.distill.scores`)."""

    fn: Callable[..., Tensor]
    needs: frozenset[str]
    """Fields of `TeacherOutput` that it reads."""
    digest: Callable[[Tensor], dict[str, Tensor]] | None = None
    """With ``bin_logits``: what `fn` reads in their place, made once per observation from log q~ [N, A, CELLS]."""


DIVERGENCES: dict[str, list[Form]] = {}
"""Forms by name, the preferred one first; functions are `fn(student, teacher, config) -> [N]`."""


def _register(name: str, *needs: str, digest: Callable[[Tensor], dict[str, Tensor]] | None = None) -> Callable:
    def add(fn: Callable) -> Callable:
        DIVERGENCES.setdefault(name, []).append(Form(fn, frozenset(needs), digest))
        return fn

    return add


@_register("mse", "mean")
def mse(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d (mu_d - m_d)²: RPD's headline loss (arXiv 2503.05833); moves the mean only, averages a teacher's modes."""
    return student.total(_gap(student, teacher).square(), _bernoulli_forward(student, teacher))


@_register("l1", "mean")
def l1(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d |mu_d - m_d|: RPD's ablation; an equal pull however far off, towards the median of noisy labels."""
    return student.total(_gap(student, teacher).abs(), _bernoulli_forward(student, teacher))


@_register("huber", "mean")
def huber(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d h(mu_d - m_d), h(x) = x² where |x| <= c, else c (2 |x| - c) (Huber, 1964, twice his): mse without outliers."""
    gap = _gap(student, teacher)
    loss = 2 * F.huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=HUBER_DELTA)
    return student.total(loss, _bernoulli_forward(student, teacher))


@_register("nll", "mean")
def nll(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """-log pi_S(a_T): behaviour cloning of the teacher's mean, RPD's `bc`; of a density, so it can be negative.

    Its pull on mu, (mu - m) / sigma², is 1 / (2 sigma²) times that of mse at the same weight.
    Discrete: the cross-entropy of p_T and p_S.
    """
    sigma = _sigma(student, config)
    # 1/2 ((m - mu) / sigma)² + log sigma + 1/2 log 2 pi
    density = 0.5 * (_gap(student, teacher) / sigma).square() + sigma.log() + 0.5 * LOG_2PI
    return student.total(_soft_clip(density), _cross_entropy(student.logits, probability(teacher)))


@_register("nearest", "samples", "mean")
def nearest(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """min_j sum_d (mu_d - a^j_d)²: mse to the teacher's sample that the student is closest to, so its modes are not averaged.

    Deaf to how likely a way is: one stray sample near by is enough to stay.
    """
    return samples.nearest(student.mean, teacher["samples"], ~student.discrete) + _discrete_sum(
        student, _bernoulli_forward(student, teacher)
    )


@_register("fkl", "bin_logits", "mean", digest=bins.moments)
def fkl_bins(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) = sum_d sum_b q~_b (log q~_b - log P_b), P_b the student's mass in cell b; needs moments of q~ only."""
    kl = teacher["neg_entropy"] + bins.cross_entropy(teacher, student.mean, _sigma(student, config))
    return student.total(_soft_clip(kl), _bernoulli_forward(student, teacher))


@_register("rkl", "bin_logits", "mean", digest=bins.steps)
def rkl_bins(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = sum_d sum_b P_b (log P_b - log q~_b): VLA-OPD's direction, on the bins themselves; picks a mode.

    A mean beyond [-1, 1], where all of P is in the outermost cell and nothing pulls any more, is brought back by
    `bins.overshoot`, with `teacher_std` as its scale.
    """
    mean, sigma = student.mean, _sigma(student, config)
    kl = bins.neg_entropy(mean, sigma) - bins.expected(teacher, mean, sigma)
    kl = kl + bins.overshoot(mean, -1, 1, config.teacher_std)
    return student.total(_soft_clip(kl), _bernoulli_reverse(student, teacher))


@_register("fkl", "samples", "mean")
def fkl_samples(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) less a constant: the samples' negative log-likelihood -1/S sum_j log pi_S(a^j), each as wide as h.

    Of q~ a Gaussian's likelihood sees the first two moments only, so this is the KL of the Gaussian that has them.
    """
    mean, sigma = samples.moments(teacher["samples"], config.teacher_std)
    kl = _gaussian_kl(student.mean - mean, sigma, _sigma(student, config))
    return student.total(_soft_clip(kl), _bernoulli_forward(student, teacher))


@_register("rkl", "samples", "mean")
def rkl_samples(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = E_S[log pi_S(a) - log q~(a)], the student's draws against the samples' kernel density; picks a mode.

    The density is of all dimensions together, so the soft clip is of their mean.
    """
    continuous = ~student.discrete
    dims = continuous.sum().clamp_min(1)
    kl = samples.reverse_kl(student.mean, _sigma(student, config), teacher["samples"], continuous, config.teacher_std)
    return dims * _soft_clip(kl / dims) + _discrete_sum(student, _bernoulli_reverse(student, teacher))


@_register("fkl", "mean", "std")
def fkl(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(T || S) = sum_d log(sigma/s) + (s² + (mu - m)²) / (2 sigma²) - 1/2: covers everything the teacher does."""
    kl = _gaussian_kl(_gap(student, teacher), _teacher_sigma(student, teacher, config), _sigma(student, config))
    return student.total(_soft_clip(kl), _bernoulli_forward(student, teacher))


@_register("rkl", "mean", "std")
def rkl(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """KL(S || T) = sum_d log(s/sigma) + (sigma² + (mu - m)²) / (2 s²) - 1/2: stays where the teacher is (VLA-OPD).

    The direction that VLA-OPD (arXiv 2603.26666) and RPD's `ppd` use, here in closed form.
    """
    kl = _gaussian_kl(_gap(student, teacher), _sigma(student, config), _teacher_sigma(student, teacher, config))
    return student.total(_soft_clip(kl), _bernoulli_reverse(student, teacher))


def bernoulli_entropy(p: Tensor) -> Tensor:
    """H(p) = -p log p - (1 - p) log(1 - p) in nats, 0 at both ends."""
    q, tiny = 1 - p, torch.finfo(p.dtype).tiny
    return -p * p.clamp_min(tiny).log() - q * q.clamp_min(tiny).log()


def _discrete_sum(student: ActionDistribution, discrete: Tensor) -> Tensor:
    """Sum over the discrete dimensions [N], for a divergence that takes the continuous ones together."""
    return discrete.masked_fill(~student.discrete, 0.0).sum(-1)


def _gap(student: ActionDistribution, teacher: Teacher) -> Tensor:
    return student.mean - teacher["mean"]


def _sigma(student: ActionDistribution, config: DistillConfig) -> Tensor:
    return student.std.detach() if config.detach_std else student.std


def _teacher_sigma(student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    # A teacher may leave anything in the discrete dimensions of its std.
    return teacher["std"].masked_fill(student.discrete, 1.0).clamp_min(config.teacher_std)


def probability(teacher: Teacher) -> Tensor:
    """The teacher's p(+1) [N, A]; in continuous dimensions without meaning, but finite."""
    return ((teacher["mean"] + 1) / 2).clamp(0, 1)


def _gaussian_kl(gap: Tensor, sigma_p: Tensor, sigma_q: Tensor) -> Tensor:
    """KL(P || Q) per dimension of Gaussians whose means are `gap` apart."""
    return (sigma_q / sigma_p).log() + (sigma_p.square() + gap.square()) / (2 * sigma_q.square()) - 0.5


def _cross_entropy(logits: Tensor, p: Tensor) -> Tensor:
    """-p log p_S - (1 - p) log(1 - p_S) = log(1 + e^l) - p l."""
    return F.softplus(logits) - p * logits


def _bernoulli_forward(student: ActionDistribution, teacher: Teacher) -> Tensor:
    """KL(T || S): the cross-entropy less the teacher's own entropy, so that it is zero iff equal."""
    p = probability(teacher)
    return _cross_entropy(student.logits, p) - bernoulli_entropy(p)


def _bernoulli_reverse(student: ActionDistribution, teacher: Teacher) -> Tensor:
    """KL(S || T) = p_S log(p_S / p_T) + (1 - p_S) log((1 - p_S) / (1 - p_T))."""
    p, logits = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB), student.logits
    plus = logits.sigmoid() * (F.logsigmoid(logits) - p.log())
    minus = (-logits).sigmoid() * (F.logsigmoid(-logits) - (1 - p).log())
    return plus + minus


def _soft_clip(nats: Tensor) -> Tensor:
    """Keep x up to c, then c (1 + log(x / c)): continuous with its derivative, monotone, never flat."""
    return torch.where(nats > SOFT_CLIP, SOFT_CLIP * (1 + (nats.clamp_min(SOFT_CLIP) / SOFT_CLIP).log()), nats)
