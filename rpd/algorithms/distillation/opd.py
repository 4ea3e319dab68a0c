"""On-policy distillation: log pi_T(a) [N], the teacher's log-probability of the student's actions, per observation.

VLA-OPD (arXiv 2603.26666) uses it as an advantage instead of a loss,

    A_D = log pi_T(a) - log pi_S(a),  a ~ pi_S,  whose mean is -KL(S || T),

so a teacher needs to score only one action, and its dimensions may depend on each other. Densities are those of the sample
before the environment clips it, as in `rpd.students.networks.distribution`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rpd.algorithms.distillation import binned, kernel_density
from rpd.algorithms.distillation.divergences import MIN_PROB, DivergenceVariant, Teacher, probability
from rpd.config import divergences
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import LOG_2PI


def opd_advantage(
    log_teacher: Tensor,
    log_student: Tensor,
    valid: Tensor,
    clip: float,
    add_up: Callable[[Tensor], Tensor] = lambda own: own,
) -> tuple[Tensor, Tensor]:
    """A_D = clip(x - mean x, -c, c), x = log pi_T(a) - log pi_S(a), and -mean x, an estimate of KL(S || T).

    VLA-OPD does not subtract the mean. Subtracting it leaves the expected gradient unchanged and lowers its variance; and for a
    student far from a confident teacher, x is below -c for all actions, so without the baseline clipping would make them equal.

    Args:
        log_teacher: [N] log pi_T(a).
        log_student: [N] log pi_S(a).
        valid: [N] bool: the teacher has scored the action; A_D is 0 elsewhere.
        clip: c, nats.
        add_up: returns the sum of a tensor over all ranks, for the mean.
    """
    gain = (log_teacher - log_student).where(valid, 0.0)
    total, count = add_up(torch.stack([gain.sum(), valid.to(gain.dtype).sum()])).unbind()
    mean = total / count.clamp_min(1)
    return (gain - mean).clamp(-clip, clip).where(valid, 0.0), -mean


def reported_log_prob(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-probability from the teacher. Beyond its outermost bins, which have no end, it falls like a Gaussian tail."""
    if "bin_edges" not in teacher:
        return teacher["log_prob"]
    edges = teacher["bin_edges"]
    beyond = binned.overshoot(action, edges[:, 0], edges[:, -1], config.bin_tail_std)
    return teacher["log_prob"] - beyond.masked_fill(discrete, 0.0).sum(-1)


def binned_log_prob(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-density of the blurred bins, summed over dimensions: -E[A_D] equals `divergences.rkl_bins`."""
    density = binned.log_density(teacher["log_mass"], action) - binned.overshoot(action, -1, 1, config.bin_tail_std)
    return _sum(action, discrete, density, teacher)


def kernel_log_prob(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log of the samples' kernel density, joint over the continuous dimensions: -E[A_D] equals `divergences.rkl_samples`."""
    density = kernel_density.log_density(action, teacher["samples"], ~discrete, config.kde_bandwidth)
    return density + _sum(action, discrete, torch.zeros_like(action), teacher)


def gaussian_log_prob(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-density of N(m, s²), s at least `min_teacher_std`: -E[A_D] equals `divergences.rkl`."""
    std = teacher["std"].masked_fill(discrete, 1.0).clamp_min(config.min_teacher_std)
    density = -0.5 * ((action - teacher["mean"]) / std).square() - std.log() - 0.5 * LOG_2PI
    return _sum(action, discrete, density, teacher)


def _sum(action: Tensor, discrete: Tensor, density: Tensor, teacher: Teacher) -> Tensor:
    plus = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB)
    return torch.where(discrete, torch.where(action >= 0, plus, 1 - plus).log(), density).sum(-1)


LOG_PROB_ESTIMATORS: dict[str, list[DivergenceVariant]] = divergences.LOG_PROB_ESTIMATORS
"""As `divergences.DIVERGENCES`; functions are `fn(action [N, A], discrete [A], teacher, config) -> [N]`."""
LOG_PROB_ESTIMATORS["opd"] += [
    DivergenceVariant(reported_log_prob, frozenset({"log_prob"})),
    DivergenceVariant(binned_log_prob, frozenset({"bin_logits", "mean"}), lambda log_mass: {"log_mass": log_mass}),
    DivergenceVariant(kernel_log_prob, frozenset({"samples", "mean"})),
    DivergenceVariant(gaussian_log_prob, frozenset({"mean", "std"})),
]
