"""Distillation: divergence x gate x schedule, composed by the objective."""

from rpd.distill.gates import GateContext
from rpd.distill.objective import DistillObjective, choose

__all__ = ["DistillObjective", "GateContext", "choose"]
