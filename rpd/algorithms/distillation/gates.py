"""g(n) in [0, 1]: weights of observations in the distillation term, computed once per rollout from stored quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rpd.algorithms.distillation.divergences import bernoulli_entropy
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError

MARGIN = 0.1
"""success-surpassed: relative lead of the student at which the gate reaches zero."""
MIN_SUCCESS = 0.01
"""success-surpassed: lower bound of the teacher's success rate in the denominator."""


@dataclass(frozen=True)
class GateContext:
    """Success rates in [0, 1] that a gate may read."""

    teacher_success: float | None = None
    """The teacher's, evaluated before the run."""
    student_success: float | None = None
    """The student's running success rate; None before its first episode."""


@dataclass(frozen=True)
class Gate:
    """A registered gate: `fn(teacher, discrete [A], context, config) -> [M]`."""

    name: str
    fn: Callable[[dict[str, Tensor], Tensor, GateContext, DistillConfig], Tensor]
    needs: frozenset[str] = frozenset()
    """Fields of `TeacherOutput` that `fn` reads."""
    needs_success: bool = False
    """Whether `GateContext.teacher_success` must be measured before the run."""


def everywhere(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Distill everywhere: g = 1."""
    return torch.ones_like(teacher["valid"], dtype=torch.float32)


def success_surpassed(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Fade out as the student overtakes its teacher: g = clip((SR_T - SR_S) / SR_T + margin, 0, 1).

    A weak teacher helps most while the student explores, so the gate is open at the start. Later, a constant pull towards a
    teacher with a success rate of 10 % would hold back a student that is better.

    Raises:
        ConfigError: the teacher's success rate was not measured.
    """
    if context.teacher_success is None:
        raise ConfigError("gate success-surpassed needs the teacher's success rate: evaluate the teacher before the run")
    ahead = (context.teacher_success - (context.student_success or 0.0)) / max(context.teacher_success, MIN_SUCCESS)
    return torch.full_like(teacher["valid"], min(max(ahead + MARGIN, 0.0), 1.0), dtype=torch.float32)


def entropy(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Distill where the teacher is confident: g = exp(-beta H_T), as SRPO weights its teacher by confidence.

    H_T is the mean over dimensions of an entropy in nats that is zero for a confident teacher: for a Gaussian the excess over
    the entropy at the minimum standard deviation, log(max(s, min) / min); for a Bernoulli H(p). `normalize_gate` divides g by
    its mean.
    """
    gaussian = (teacher["std"].clamp_min(config.min_teacher_std) / config.min_teacher_std).log()
    bernoulli = bernoulli_entropy(((teacher["mean"] + 1) / 2).clamp(0, 1))
    return torch.exp(-config.gate_beta * torch.where(discrete, bernoulli, gaussian).mean(-1))


GATES = {
    gate.name: gate
    for gate in (
        Gate("none", everywhere),
        Gate("success-surpassed", success_surpassed, needs_success=True),
        Gate("entropy", entropy, needs=frozenset({"mean", "std"})),
    )
}
