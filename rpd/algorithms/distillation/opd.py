"""On-policy distillation (VLA-OPD, arXiv 2603.26666): the reverse KL by the score function, one advantage per action dimension.

For K actions a_k ~ pi_S of an observation, and each dimension d,

    x_kd = log pi_T(a_kd) - log pi_S(a_kd)          gain; the mean of -sum_d x_kd is KL(S || T)
    A_kd = clip(x_kd - b_kd, -c, c)                 b_kd: mean of the other K - 1 gains (leave-one-out, arXiv 2402.14740)
    L    = -1/K sum_k sum_d min(r_kd, r_max) A_kd   r_kd = pi(a_kd) / pi_S(a_kd), pi_S the policy that drew the actions

The teacher only has to score actions, and no gradient passes through its density. VLA-OPD has one advantage per action token,
without a baseline. One advantage for the sum over dimensions makes six dimensions the noise of the seventh; and for a student
far from a confident teacher all x are below -c, so that without a baseline clipping would make them equal. There is no clip as
in PPO: r_max only bounds the weight of an action that the updates of a batch have made likely.

Densities are those of the action before the environment clips it, as in `rpd.students.networks.distribution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation import binned, kernel_density
from rpd.algorithms.distillation.divergences import (
    DIVERGENCES,
    MIN_PROB,
    DivergenceVariant,
    Teacher,
    gaussian_log_density,
    probability,
)
from rpd.algorithms.distillation.gates import behavior_of
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution
from rpd.students.row_share import RowShare

MAX_RATIO = 5.0
"""r_max."""


def advantages(gain: Tensor, valid: Tensor, clip: float, add_up: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
    """A [K, N, A], 0 in rows that are not valid.

    Args:
        gain: x [K, N, A]. With K = 1 the baseline is the mean over the valid rows.
        valid: [N] bool: rows that the teacher has scored.
        clip: c, nats.
        add_up: returns the sum of a tensor over all ranks, for the baseline with K = 1.
    """
    gain = gain.where(valid[:, None], 0.0)
    if len(gain) > 1:
        baseline = (gain.sum(0) - gain) / (len(gain) - 1)
    else:
        sums = add_up(torch.cat([gain[0].sum(0), valid.sum()[None].to(gain.dtype)]))
        baseline = sums[:-1] / sums[-1].clamp_min(1)
    return (gain - baseline).clamp(-clip, clip).where(valid[:, None], 0.0)


def divergence(gain: Tensor, valid: Tensor, add_up: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
    """Estimate KL(S || T), nats, over the valid rows: the mean of -sum_d x; arguments as in `advantages`.

    For samples, the densities of the dimensions are conditional on all others, and their sum is not the joint density: the
    number then orders students, and is 0 for equal distributions, but is no KL.
    """
    total = gain.mean(0).sum(-1).where(valid, 0.0).sum()
    total, count = add_up(torch.stack([total, valid.sum().to(gain.dtype)])).unbind()
    return -total / count.clamp_min(1)


def loss(student: ActionDistribution, targets: Teacher, config: DistillConfig) -> Tensor:
    """L [N] for the ``actions``, their ``log_behavior`` and their ``advantages``, each [N, K, A], from `targets_of`."""
    if config.detach_std:
        student = replace(student, log_std=student.log_std.detach())
    actions, behavior, advantage = (targets[name].transpose(0, 1) for name in ("actions", "log_behavior", "advantages"))
    ratio = (student.log_prob_per_dim(actions) - behavior).clamp_max(math.log(MAX_RATIO)).exp()  # no infinity, even in passing
    return -(ratio * advantage).sum(-1).mean(0)


def draw_actions(
    student: ActionDistribution,
    count: int,
    num_envs: int = 1,
    generator: torch.Generator | None = None,
    share: RowShare | None = None,
) -> Tensor:
    """Draw `count` actions per row: [K, M, A]; those of an environment do not depend on the number of processes.

    Args:
        student: distributions [M, A]; row t N + n is step t of environment n.
        count: K.
        num_envs: environments N of this process.
        generator: random generator, in the same state in all processes; None: torch's global one.
        share: this process's environments, see `rpd.students.row_share.draw_rows`.
    """
    steps = len(student.raw) // num_envs
    raw, log_std = (x.unflatten(0, (steps, num_envs)).transpose(0, 1).flatten(1) for x in (student.raw, student.log_std))
    by_env = ActionDistribution(raw, log_std, student.discrete.repeat(steps))  # [N, T A]
    drawn = torch.stack([by_env.sample(generator, share) for _ in range(count)])
    return drawn.unflatten(-1, (steps, -1)).transpose(1, 2).flatten(1, 2)


def targets_of(
    batch: TensorDict,
    teacher: Teacher,
    variant: DivergenceVariant,
    discrete: Tensor,
    config: DistillConfig,
    add_up: Callable[[Tensor], Tensor] = lambda own: own,
    draw: Callable[[ActionDistribution, int], Tensor] = draw_actions,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the inputs of `loss` [M, K, A] and the estimated divergence, once per batch.

    Args:
        batch: [M] with ``action`` and the student's distribution in ``behavior``: ``raw`` and ``log_std``.
        teacher: the fields that the variant reads, [M, ...], and ``valid``.
        variant: scores actions.
        discrete: [A] bool.
        config: number of actions, clip and smoothing.
        add_up: returns the sum of a tensor over all ranks.
        draw: see `draw_actions`.
    """
    assert variant.score is not None
    student = behavior_of(batch, discrete)
    scored_by_teacher = "log_prob" in variant.needs
    actions = cast("Tensor", batch["action"])[None] if scored_by_teacher else draw(student, config.opd_samples)
    behavior = student.log_prob_per_dim(actions)
    gain = variant.score(actions, discrete, teacher, config) - behavior
    advantage = advantages(gain, teacher["valid"], config.opd_clip, add_up)
    each = {"actions": actions, "log_behavior": behavior, "advantages": advantage}
    return {name: value.transpose(0, 1) for name, value in each.items()}, divergence(gain, teacher["valid"], add_up)


def score_bins(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-density of the blurred bins: -E[sum_d x] equals `divergences.rkl_bins`."""
    density = binned.tailed_log_density(teacher["log_mass"], action, config.bin_tail_std)
    return _with_gripper(action, discrete, density, teacher)


def score_samples(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log of the samples' kernel density, of each dimension given the others."""
    density = kernel_density.log_density_per_dim(action, teacher["samples"], ~discrete, config.kde_bandwidth)
    return _with_gripper(action, discrete, density, teacher)


def score_gaussian(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-density of N(m, s²), s at least `min_teacher_std`: -E[sum_d x] equals `divergences.rkl`."""
    std = teacher["std"].masked_fill(discrete, 1.0).clamp_min(config.min_teacher_std)
    return _with_gripper(action, discrete, gaussian_log_density(action, teacher["mean"], std), teacher)


def score_of_teacher(action: Tensor, discrete: Tensor, teacher: Teacher, config: DistillConfig) -> Tensor:
    """Log-density from the teacher. Beyond its outermost bins, which have no end, it falls like a Gaussian tail."""
    if "bin_edges" not in teacher:
        return teacher["log_prob"]
    edges = teacher["bin_edges"]
    beyond = binned.overshoot(action, edges[:, 0], edges[:, -1], config.bin_tail_std)
    return teacher["log_prob"] - beyond.masked_fill(discrete, 0.0)


def _with_gripper(action: Tensor, discrete: Tensor, density: Tensor, teacher: Teacher) -> Tensor:
    """Log-density per dimension; in discrete dimensions the log-probability of the action's sign."""
    plus = probability(teacher).clamp(MIN_PROB, 1 - MIN_PROB)
    return torch.where(discrete, torch.where(action >= 0, plus, 1 - plus).log(), density)


DIVERGENCES["opd"] += [
    DivergenceVariant(loss, frozenset({"bin_logits", "mean"}), lambda log_mass: {"log_mass": log_mass}, score_bins),
    DivergenceVariant(loss, frozenset({"samples", "mean"}), score=score_samples),
    DivergenceVariant(loss, frozenset({"mean", "std"}), score=score_gaussian),
    DivergenceVariant(loss, frozenset({"log_prob"}), score=score_of_teacher),
]
