"""List-wise distillation of K student actions, anchored at the policy that drew them (ADPO, arXiv 2510.18913).

For K actions a_k ~ pi_old of an observation, and each dimension d,

    q_k ~ exp(x_k / beta)        x_k = log pi_T(a_k) - log pi_old(a_k)
    p_k ~ exp(log pi(a_k) - log pi_old(a_k))
    D   = sum_d KL(q || p)

ADPO's cross-entropy minus the entropy of q, so that it is zero where the student weights the actions as the teacher does. The
anchor makes the update relative to the old policy: there p is uniform, whatever the policy's entropy, and actions that the
student never takes do not count. As for `rpd.algorithms.distillation.opd`, the teacher only scores actions.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rpd.algorithms.distillation import opd  # noqa: F401  (registers the scores)
from rpd.algorithms.distillation.divergences import DIVERGENCES, DivergenceVariant, Teacher
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

BETA = 1.0
"""Temperature of the teacher's list."""


def adpo(student: ActionDistribution, targets: Teacher, config: DistillConfig) -> Tensor:
    """D [N] for the targets of `rpd.algorithms.distillation.opd.targets_of`, [N, K, A] each."""
    if config.detach_std:
        student = replace(student, log_std=student.log_std.detach())
    actions, behavior, advantage = (targets[name].transpose(0, 1) for name in ("actions", "log_behavior", "advantages"))
    count = len(actions)
    # The leave-one-out advantage is K / (K - 1) times the gain minus its mean, which drops out.
    log_q = ((count - 1) / count * advantage / BETA).log_softmax(0)
    log_p = (student.log_prob_per_dim(actions) - behavior).log_softmax(0)
    return (log_q.exp() * (log_q - log_p)).sum((0, -1))


def check(config: DistillConfig) -> None:
    """Refuse a list of one action.

    Raises:
        ConfigError: `opd_samples` is 1.
    """
    if config.opd_samples < 2:
        raise ConfigError("divergence adpo compares several actions: distill.opd_samples has to be 2 or more, not 1")


DIVERGENCES["adpo"] += [
    DivergenceVariant(adpo, variant.needs, variant.precompute, variant.score, check=check)
    for variant in DIVERGENCES["opd"]
    if "log_prob" not in variant.needs  # one score per observation is no list
]
