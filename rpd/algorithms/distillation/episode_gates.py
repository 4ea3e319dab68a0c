"""Gates that read the outcome of an episode, or what happened in it before.

A batch has parts of episodes. The outcome of one that has not ended is the student's success rate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpd.algorithms.distillation.gates import EPISODES, Rows, confidence, register, register_spread

MEMORY = 0.9
"""in-distribution: weight of the past per step; calibrated-confidence: per batch."""


@register("failed-episodes", keeps=(EPISODES,))
def failed_episodes(rows: Rows) -> Tensor:
    """Distill where reward has nothing to reinforce: g = 1 - success of the episode; the router of SRPO (arXiv 2604.02288)."""
    return 1 - outcomes(rows)[0]


@register("solved-episodes", keeps=(EPISODES,))
def solved_episodes(rows: Rows) -> Tensor:
    """Distill on states of solved episodes only: g = success of the episode; the quality gate of KEPO (arXiv 2602.00400)."""
    return outcomes(rows)[0]


@register("scope", "mean", keeps=(EPISODES,))
def scope(rows: Rows) -> Tensor:
    """Failed episodes that the teacher finds likely: g = (1 - success) exp(min(0, l - mean l)), SCOPE (arXiv 2604.10688).

    l is the mean over the episode's labeled rows of the log-likelihood of its actions under N(m, c²), c = `min_teacher_std`, up
    to the constant, per dimension: minus the logarithm of the teacher's perplexity. SCOPE's weights are the softmax of l; here
    they are cut off at the mean of the failed rows, so that one episode cannot take all. Its other path, likelihood of the
    student's solved episodes, is PPO's.
    """
    fit = -0.5 * _distance(rows)
    ended, labeled = _ended(rows), rows.valid.to(fit.dtype)
    total, count = (_over_episode(_steps(rows, x), ended).flatten() for x in (fit * labeled, labeled))
    likelihood, failed = total / count.clamp_min(1), 1 - outcomes(rows)[0]
    sums = rows.world.sum(torch.stack([(failed * labeled * likelihood).sum(), (failed * labeled).sum()]))
    return failed * (likelihood - sums[0] / sums[1].clamp_min(1e-6)).clamp_max(0).exp()


@register("in-distribution", "mean")
def in_distribution(rows: Rows) -> Tensor:
    """Distill near the teacher's own states: g = exp(-beta max(0, d - 1) / 2), for teachers that are wrong elsewhere.

    States reached by the teacher's actions are like its data. d is a moving average over the steps of the episode before, of
    the mean squared distance of the executed action to the teacher's in units of `min_teacher_std`: 1 for the teacher itself.
    It closes for a student that is far from its teacher, so start from a pretrained one.
    """
    distance, valid, ended = (_steps(rows, x) for x in (_distance(rows), rows.valid, _ended(rows).flatten()))
    drift = torch.ones_like(distance[0])
    drifts = []
    for t in range(len(distance)):
        drifts.append(drift)
        drift = torch.where(valid[t], MEMORY * drift + (1 - MEMORY) * distance[t], drift)
        drift = drift.masked_fill(ended[t], 1.0)
    return (-0.5 * rows.config.gate_beta * (torch.stack(drifts).flatten() - 1).clamp_min(0)).exp()


@register_spread("calibrated-confidence", keeps=(EPISODES,), state=("n", "c", "y", "cc", "cy"))
def calibrated_confidence(rows: Rows, std: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Success probability that the teacher's confidence c predicts: g = clip(E[y] + Cov(c, y) / Var(c) (c - E[c]), 0, 1).

    The linear calibration with the least Brier score E[(g - y)²], y the success of the episode: a closed form of the head that
    HyperClick (arXiv 2510.27266) trains by this score. Moments are over the ended episodes of about ten batches; before the
    first, g = c. Its mean is the success rate: use `normalize_gate`.
    """
    c = confidence(rows, std)
    y, known = outcomes(rows)
    known = known & rows.valid
    moments = torch.stack([torch.ones_like(c), c, y, c * c, c * y])
    new = rows.world.sum((moments * known).sum(-1))
    for name, value in zip(("n", "c", "y", "cc", "cy"), new.unbind(), strict=True):
        state[name] = MEMORY * state[name].to(value.device) + value
    n = state["n"].clamp_min(1e-6)
    mean_c, mean_y = state["c"] / n, state["y"] / n
    variance = (state["cc"] / n - mean_c.square()).clamp_min(1e-6)
    slope = (state["cy"] / n - mean_c * mean_y) / variance
    return torch.where(state["n"] > 0, (mean_y + slope * (c - mean_c)).clamp(0, 1), c)


def outcomes(rows: Rows) -> tuple[Tensor, Tensor]:
    """Success of each row's episode [M], and whether it has ended in the batch [M] bool."""
    success, ended = _steps(rows, rows.batch[EPISODES]), _ended(rows)
    running = torch.full_like(success[0], rows.context.student_success or 0.0)
    known = torch.zeros_like(ended[0])
    values, finished = [], []
    for t in reversed(range(len(success))):
        running, known = torch.where(ended[t], success[t], running), known | ended[t]
        values.append(running)
        finished.append(known)
    return torch.stack(values[::-1]).flatten(), torch.stack(finished[::-1]).flatten()


def _distance(rows: Rows) -> Tensor:
    """Mean squared distance [M] of actions to the teacher's over the continuous dimensions, in units of `min_teacher_std`."""
    return rows.continuous_mean(((rows.batch["action"] - rows.teacher["mean"]) / rows.config.min_teacher_std).square())


def _steps(rows: Rows, x: Tensor) -> Tensor:
    """Rows [M] as steps and environments [T, N]."""
    return x.reshape(-1, rows.context.num_envs)


def _ended(rows: Rows) -> Tensor:
    """[T, N] bool: the episode ended with this step."""
    return _steps(rows, rows.batch["terminated"] | rows.batch["truncated"])


def _over_episode(x: Tensor, ended: Tensor) -> Tensor:
    """Sum of x [T, N] over the steps of the same episode, at each of its steps."""
    before, after = torch.zeros_like(x), torch.zeros_like(x)
    total = torch.zeros_like(x[0])
    for t in range(len(x)):  # up to and with step t
        total = x[t] + (total if t == 0 else total.masked_fill(ended[t - 1], 0.0))
        before[t] = total
    total = torch.zeros_like(x[0])
    for t in reversed(range(len(x))):  # from step t + 1 on
        total = total.masked_fill(ended[t], 0.0)
        after[t] = total
        total = total + x[t]
    return before + after
