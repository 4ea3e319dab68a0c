"""The teacher in the ratio of PPO's surrogate: TRRD of RLAD (arXiv 2602.22495), in place of a distillation loss.

    r = pi / (pi_old^a pi_T^(1 - a)),   log r = log(pi / pi_old) + (1 - a) (log pi_old - log pi_T),   1 - a = w(t) g(n)

A good action that the teacher likes may be reinforced further before PPO's clip stops it, and one that it does not like less
far. With w = 0 this is PPO. Densities of continuous actions differ by far more than those of tokens, so the second logarithm is
a sum over dimensions divided by the root of their number, clipped to +-`CLIP`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation import opd
from rpd.algorithms.distillation.divergences import DIVERGENCES, DivergenceVariant, Teacher
from rpd.algorithms.distillation.gates import behavior_of
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

CLIP = 2.0
"""Largest |log pi_old - log pi_T|, nats."""


def targets_of(
    batch: TensorDict,
    teacher: Teacher,
    variant: DivergenceVariant,
    discrete: Tensor,
    config: DistillConfig,
    add_up: Callable[[Tensor], Tensor] = lambda own: own,
) -> tuple[dict[str, Tensor], Tensor]:
    """``log_offset`` [M], clip(log pi_old - log pi_T) of the executed actions, 0 if not labeled, and the estimated KL(S || T).

    Arguments as for `rpd.algorithms.distillation.opd.targets_of`.
    """
    assert variant.score is not None
    student = behavior_of(batch, discrete)
    action = batch["action"]
    gain = variant.score(action, discrete, teacher, config) - student.log_prob_per_dim(action)
    offset = (-gain.sum(-1) / gain.shape[-1] ** 0.5).clamp(-CLIP, CLIP).where(teacher["valid"], 0.0)
    return {"log_offset": offset}, opd.divergence(gain[None], teacher["valid"], add_up)


def no_loss(student: ActionDistribution, targets: Teacher, config: DistillConfig) -> Tensor:
    """0 [N]: the teacher enters the ratio only."""
    return torch.zeros_like(targets["log_offset"])


def check(config: DistillConfig) -> None:
    """Refuse weights and schedules without meaning for an exponent.

    Raises:
        ConfigError: a weight above 1, or a schedule that compares gradients.
    """
    if config.schedule == "gradient-ratio":
        raise ConfigError(
            "divergence trrd adds no loss whose gradient could be compared: use schedule constant, linear or cosine"
        )
    if config.weight > 1:
        raise ConfigError(f"divergence trrd: distill.weight is the teacher's exponent 1 - alpha, 0 to 1, not {config.weight:g}")


DIVERGENCES["trrd"] += [
    DivergenceVariant(no_loss, variant.needs, variant.precompute, variant.score, targets_of, in_ratio=True, check=check)
    for variant in DIVERGENCES["opd"]
]
