"""f-divergences D_f(S, T) = sum_b q~_b f(u_b), u = P / q~: one function per kind of teacher, and a table of f.

P is the student's mass, q~ the teacher's. The table has the divergences that need no logarithm of a small P; the forward and
the reverse KL, which do, have closed forms in `rpd.algorithms.distillation.divergences`.

- Bins: P_b = Phi((x_{b+1} - mu) / sigma) - Phi((x_b - mu) / sigma) in the cells of `rpd.algorithms.distillation.binned`, summed
  over dimensions. A Gaussian teacher is binned to the same cells, and mixed with the same broad Gaussian: none of these
  divergences has a useful closed form for two Gaussians.
- Samples: D = E_S[f(u) / u], a = mu + sigma eps, with the joint density of `rpd.algorithms.distillation.kernel_density`.
- Discrete dimensions: the two values are the cells.

All but chi2 are bounded: an outlier costs little, and a student far from its teacher has no gradient. Start them from a student
that overlaps with its teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rpd.algorithms.distillation import binned, kernel_density
from rpd.algorithms.distillation.divergences import (
    DIVERGENCES,
    MIN_PROB,
    DivergenceVariant,
    Teacher,
    discrete_sum,
    probability,
    soft_clip,
    student_sigma,
    teacher_sigma,
)  # fmt: skip
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

MAX_LOG_RATIO = 40.0
"""Samples: upper bound of |log u|, which keeps chi2 finite."""
TINY = 1e-30
"""Lower bound of u in a logarithm."""


def jensen_shannon(u: Tensor, config: DistillConfig) -> Tensor:
    """Mixture M = b T + (1 - b) S, b KL(T || M) + (1 - b) KL(S || M): f = -b log m + (1 - b) u log(u / m), m = b + (1 - b) u.

    Generalized Jensen-Shannon divergence, b = `jsd_beta`, of GKD (arXiv 2306.13649) and OPSD (arXiv 2601.18734).
    """
    b = config.jsd_beta
    log_m = (b + (1 - b) * u).log()
    return -b * log_m + (1 - b) * u * (u.log() - log_m)


def skew_forward(u: Tensor, config: DistillConfig) -> Tensor:
    """KL(T || a T + (1 - a) S), a = `skew_alpha`: f = -log(a + (1 - a) u), at most -log a (DistiLLM, arXiv 2402.03898)."""
    a = config.skew_alpha
    return (1 - a) * (u - 1) - (a + (1 - a) * u).log()


def skew_reverse(u: Tensor, config: DistillConfig) -> Tensor:
    """KL(S || a S + (1 - a) T), a = `skew_alpha`: f = u log(u / (a u + 1 - a)), at most -log a (DistiLLM)."""
    a = config.skew_alpha
    return u * (u.log() - (a * u + 1 - a).log()) - (1 - a) * (u - 1)


def total_variation(u: Tensor, config: DistillConfig) -> Tensor:
    """1/2 sum |P - q~|: f = |u - 1| / 2, at most 1."""
    return (u - 1).abs() / 2


def chi_square(u: Tensor, config: DistillConfig) -> Tensor:
    """Pearson's sum (P - q~)² / q~: f = (u - 1)². The most severe about actions that the teacher never takes."""
    return (u - 1).square()


Generator = Callable[[Tensor, DistillConfig], Tensor]
GENERATORS: dict[str, Generator] = {
    "jsd": jensen_shannon,
    "skew-fkl": skew_forward,
    "skew-rkl": skew_reverse,
    "tv": total_variation,
    "chi2": chi_square,
}
"""f(u) by name; convex, with f(1) = f'(1) = 0 by a multiple of u - 1, which has no effect on a sum and keeps estimates >= 0."""


def of_bins(f: Generator, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """sum_d sum_b q~_b f(P_b / q~_b) [N], from ``log_mass`` [N, A, CELLS]."""
    mass = binned.student_mass(student.mean, student_sigma(student, config))
    log_q = teacher["log_mass"]
    terms = log_q.exp() * f((mass.clamp_min(TINY).log() - log_q).exp(), config)
    outside = binned.overshoot(student.mean, -1, 1, config.bin_tail_std)  # all mass in the outermost cell: no other gradient
    return student.total(soft_clip(terms.sum(-1) + outside), _of_bernoulli(f, student, teacher, config))


def of_samples(f: Generator, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """E_S[f(u) / u] [N], u = pi_S(a) / q~(a), over the continuous dimensions jointly."""
    continuous = ~student.discrete
    sigma = student_sigma(student, config)
    ratio = kernel_density.log_ratio(student.mean, sigma, teacher["samples"], continuous, config.kde_bandwidth)
    u = ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return soft_clip((f(u, config) / u).mean(0)) + discrete_sum(student, _of_bernoulli(f, student, teacher, config))


def of_gaussian(f: Generator, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """As `of_bins`, for the mass of N(m, s²) in the cells; s at least `min_teacher_std`."""
    mass = binned.student_mass(teacher["mean"], teacher_sigma(student, teacher, config))
    return of_bins(f, student, {**teacher, "log_mass": binned.floored(mass, config.uniform_mix)}, config)


def _of_bernoulli(f: Generator, student: ActionDistribution, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Sum over both values of q f(p / q) [N, A]."""
    q = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB)
    p = student.logits.sigmoid()
    return q * f((p / q).clamp_min(TINY), config) + (1 - q) * f((1 - p).clamp_min(TINY) / (1 - q), config)


for _name, _f in GENERATORS.items():
    DIVERGENCES[_name] += [
        DivergenceVariant(partial(of_bins, _f), frozenset({"bin_logits", "mean"}), lambda log_mass: {"log_mass": log_mass}),
        DivergenceVariant(partial(of_samples, _f), frozenset({"samples", "mean"})),
        DivergenceVariant(partial(of_gaussian, _f), frozenset({"mean", "std"})),
    ]
