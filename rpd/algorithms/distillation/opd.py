"""How likely the teacher finds what the student did: log pi_T(a) [N], per observation.

On-policy distillation (VLA-OPD, arXiv 2603.26666) makes of it an advantage instead of a loss,

    A_D = log pi_T(a) - log pi_S(a),  a ~ pi_S,  whose mean is -KL(S || T),

so a teacher need only score one action, and can do so with all dependence between dimensions that it knows of. Densities
are those of the sample before the environment clips it, as in `students.distribution`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpd.config import DistillConfig
from rpd.distill import bins, samples
from rpd.distill.divergences import MIN_PROB, Form, Teacher, probability
from students.distribution import LOG_2PI


def opd_advantage(log_teacher: Tensor, log_student: Tensor, valid: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """A_D = clip(x - mean x, -c, c), x = log pi_T(a) - log pi_S(a), and -mean x, an estimate of KL(S || T).

    VLA-OPD takes x as it is. Its mean changes no gradient on average, only the noise, and a Gaussian student far from a sure
    teacher has x below -c wherever it acts: clipped without the baseline, all actions would look alike.

    Args:
        log_teacher: [N] log pi_T(a).
        log_student: [N] log pi_S(a).
        valid: [N] which actions the teacher has scored; A_D is 0 for the others.
        clip: c, nats.
    """
    gain = (log_teacher - log_student).where(valid, 0.0)
    mean = gain.sum() / valid.sum().clamp_min(1)
    return (gain - mean).clamp(-clip, clip).where(valid, 0.0), -mean


def given(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """What the teacher says. Beyond its bins, the outermost of which goes on for ever, it falls as a Gaussian."""
    if "bin_edges" not in teacher:
        return teacher["log_prob"]
    edges = teacher["bin_edges"]
    beyond = bins.overshoot(action, edges[:, 0], edges[:, -1], config.teacher_std)
    return teacher["log_prob"] - beyond.masked_fill(discrete, 0.0).sum(-1)


def of_bins(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """The blurred bins' density, dimension by dimension: -E[A_D] is then `divergences.rkl_bins`."""
    density = bins.log_density(teacher["log_mass"], action) - bins.overshoot(action, -1, 1, config.teacher_std)
    return _sum(action, discrete, density, teacher)


def of_samples(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """The samples' kernel density, of all continuous dimensions together: -E[A_D] is then `divergences.rkl_samples`."""
    density = samples.log_density(action, teacher["samples"], ~discrete, config.teacher_std)
    return density + _sum(action, discrete, torch.zeros_like(action), teacher)


def of_gaussian(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """The density of N(m, s²), s floored at `teacher_std`: -E[A_D] is then `divergences.rkl`."""
    std = teacher["std"].masked_fill(discrete, 1.0).clamp_min(config.teacher_std)
    density = -0.5 * ((action - teacher["mean"]) / std).square() - std.log() - 0.5 * LOG_2PI
    return _sum(action, discrete, density, teacher)


def _sum(action: Tensor, discrete: Tensor, density: Tensor, teacher: Teacher) -> Tensor:
    plus = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB)
    return torch.where(discrete, torch.where(action >= 0, plus, 1 - plus).log(), density).sum(-1)


SCORES = {
    "opd": [
        Form(given, frozenset({"log_prob"})),
        Form(of_bins, frozenset({"bin_logits", "mean"}), digest=lambda log_mass: {"log_mass": log_mass}),
        Form(of_samples, frozenset({"samples", "mean"})),
        Form(of_gaussian, frozenset({"mean", "std"})),
    ]
}
"""As `divergences.DIVERGENCES`; functions are `fn(action [N, A], discrete [A], teacher, config) -> [N]`."""
