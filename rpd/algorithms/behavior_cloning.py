"""The loss of behavior cloning for students with an action distribution."""

from __future__ import annotations

from torch import Tensor

from rpd.algorithms.distillation.divergences import DIVERGENCES
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution


def demonstration_loss(student: ActionDistribution, actions: Tensor, kind: str) -> Tensor:
    """Mean distance of N action distributions from the actions of demonstrations, a scalar.

    Continuous dimensions: -log N(a; mu, sigma²) (``nll``), (mu - a)² (``mse``), |mu - a| (``l1``) or the Huber distance
    (``huber``), each with a constant sigma: the gradient reaches the mean only. Discrete dimensions: the cross-entropy of
    p = (a + 1) / 2 and the student's probability of +1. Summed over dimensions; see `rpd.algorithms.distillation.divergences`.

    Args:
        student: distributions [N, A]; of a student with a head for teachers, that head's.
        actions: [N, A] in [-1, 1].
        kind: ``nll``, ``mse``, ``l1`` or ``huber``.
    """
    (variant,) = DIVERGENCES[kind]
    return variant.fn(student.imitation or student, {"mean": actions}, DistillConfig(detach_std=True)).mean()
