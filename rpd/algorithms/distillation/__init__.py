"""Distillation objective, composed of a divergence, a gate and a schedule."""

from rpd.algorithms.distillation import candidates, episode_gates, f_divergences, reward_gates  # noqa: F401  (they register theirs)
from rpd.algorithms.distillation.gates import GateContext
from rpd.algorithms.distillation.objective import DistillObjective, choose

__all__ = ["DistillObjective", "GateContext", "choose"]
