"""Distillation objective, composed of a divergence, a gate and a schedule."""

from rpd.algorithms.distillation import (  # noqa: F401  (they register theirs)
    candidates,
    episode_gates,
    f_divergences,
    listwise,
    reward_gates,
    teacher_ratio,
)
from rpd.algorithms.distillation.gates import GateContext
from rpd.algorithms.distillation.objective import DistillObjective, choose

__all__ = ["DistillObjective", "GateContext", "choose"]
