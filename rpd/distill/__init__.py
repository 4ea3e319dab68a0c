"""Distillation: divergence x gate x schedule, composed by the objective."""

from rpd.distill.gates import GateContext
from rpd.distill.objective import DistillObjective
from rpd.distill.replay import Replay

__all__ = ["DistillObjective", "GateContext", "Replay"]
