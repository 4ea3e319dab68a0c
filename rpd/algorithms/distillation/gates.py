"""g(n) in [0, 1]: which observations are distilled. Computed once per rollout, from stored quantities only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.errors import ConfigError
from rpd.config import DistillConfig
from rpd.distill.divergences import bernoulli_entropy

MARGIN = 0.1
"""success-surpassed: the teacher still counts until the student is this much better, relative to the teacher."""
MIN_SUCCESS = 0.01
"""success-surpassed: floor of the teacher's success rate in the denominator."""


@dataclass(frozen=True)
class GateContext:
    """What a gate may know about the run. Success rates in [0, 1]."""

    teacher_success: float | None = None
    """The teacher's, evaluated alone before the run."""
    student_success: float | None = None
    """The student's running success rate; None before its first episode."""


@dataclass(frozen=True)
class Gate:
    """A registered gate: `fn(teacher, discrete [A], context, config) -> [M]`."""

    name: str
    fn: Callable[[dict[str, Tensor], Tensor, GateContext, DistillConfig], Tensor]
    needs: frozenset[str] = frozenset()
    """Fields of `TeacherOutput` that it reads."""
    needs_success: bool = False
    """Whether `GateContext.teacher_success` must be measured before the run."""


def everywhere(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Distil everywhere: g = 1."""
    return torch.ones_like(teacher["valid"], dtype=torch.float32)


def success_surpassed(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Fade out as the student overtakes its teacher: g = clip((SR_T - SR_S) / SR_T + margin, 0, 1).

    A weak teacher helps most while the student explores, so nothing is gated at the start; a constant pull towards a
    teacher of 10 % would hold back a student that has passed it.

    Raises:
        ConfigError: if the teacher's success rate was not measured.
    """
    if context.teacher_success is None:
        raise ConfigError("gate success-surpassed needs the teacher's success rate: evaluate the teacher before the run")
    ahead = (context.teacher_success - (context.student_success or 0.0)) / max(context.teacher_success, MIN_SUCCESS)
    return torch.full_like(teacher["valid"], min(max(ahead + MARGIN, 0.0), 1.0), dtype=torch.float32)


def entropy(teacher: dict[str, Tensor], discrete: Tensor, context: GateContext, config: DistillConfig) -> Tensor:
    """Listen where the teacher is sure: g = exp(-beta H_T), as SRPO weighs its teacher by confidence.

    H_T is the mean over dimensions of an entropy that is zero for a sure teacher, in nats: for a Gaussian its excess over
    one at the floor, log(max(s, floor) / floor); for a Bernoulli H(p). `preserve_mean` normalises g by its mean.
    """
    gaussian = (teacher["std"].clamp_min(config.teacher_std) / config.teacher_std).log()
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
