"""The product of a run's gates: chosen and checked before the run, computed once per batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rpd.algorithms.distillation.choice import first_supported
from rpd.algorithms.distillation.divergences import DIVERGENCES, DivergenceVariant
from rpd.algorithms.distillation.gates import GATES, GateVariant, Rows
from rpd.config.gates import gate_list
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

EXCLUSIVE = (("failed-episodes", "solved-episodes"), ("scope", "solved-episodes"))
"""Pairs whose product is 0 in each episode that has ended."""


def needs_of(config: DistillConfig) -> tuple[str, str, str]:
    """Divergence of a configuration, where its teacher enters, and what a teacher has to give, for a table."""
    variants = DIVERGENCES[config.divergence]
    door = "ratio" if variants[0].in_ratio else "scores of actions" if variants[0].score is not None else "loss"
    alternatives: list[Sequence[DivergenceVariant | GateVariant]] = [
        variants,
        *(GATES[name] for name in gate_list(config.gate)),
    ]
    each = [{" ".join(sorted(v.needs - {"mean"}) or ["mean"]) for v in choice if v.needs} for choice in alternatives]
    return config.divergence, door, "; ".join(dict.fromkeys(" or ".join(sorted(fields)) for fields in each if fields))


class GateProduct:
    """Product of the gates that a configuration names; 1 for none.

    Attributes:
        needs: fields of `TeacherOutput` that the gates read.
        keeps: fields that the collector has to store for them.
        needs_success: whether a gate reads the teacher's success rate.
    """

    def __init__(self, config: DistillConfig, teacher: str, output_fields: Iterable[str], use_reward: bool = True) -> None:
        """Choose the variants that the teacher supports.

        Args:
            config: names the gates.
            teacher: the teacher's name, for error messages.
            output_fields: fields of `TeacherOutput` that the teacher fills.
            use_reward: whether the run has a reward.

        Raises:
            ConfigError: a gate that the teacher or the algorithm does not support, or two that exclude each other; names the
                pieces and what would fit.
        """
        names = gate_list(config.gate)
        supported = frozenset(output_fields)
        self._gates = {name: first_supported("gate", name, GATES, teacher, supported) for name in names}
        for name, gate in self._gates.items():
            if gate.needs_reward and not use_reward:
                others = sorted(o for o, all_ in GATES.items() if not all_[0].needs_reward)
                raise ConfigError(
                    f"gate {name} reads the reward's advantage, which algorithm dagger does not have: use algorithm rpd, "
                    f"or one of {', '.join(others)}"
                )
        for one, other in EXCLUSIVE:
            if one in names and other in names:
                raise ConfigError(
                    f"gate {config.gate}: the product of {one} and {other} is 0 in every ended episode: leave out one"
                )
        self.needs: frozenset[str] = frozenset().union(*(gate.needs for gate in self._gates.values()))
        self.keeps: frozenset[str] = frozenset().union(*(gate.keeps for gate in self._gates.values()))
        self.needs_success = any(gate.needs_success for gate in self._gates.values())
        self._state = {name: {key: torch.zeros(()) for key in gate.state} for name, gate in self._gates.items() if gate.state}

    @property
    def is_live(self) -> bool:
        """Whether a gate depends on the student as it is updated, see `live`."""
        return any(gate.live for gate in self._gates.values())

    def compute(self, rows: Rows) -> Tensor:
        """Product [M] of the gates that are computed once per batch; 0 in rows that are not valid."""
        product = torch.ones_like(rows.valid, dtype=torch.float32)
        for name, gate in self._gates.items():
            if not gate.live:
                product = product * (gate.fn(rows, self._state[name]) if gate.state else gate.fn(rows))
        return product.where(rows.valid, 0.0)

    @torch.no_grad()
    def live(self, student: ActionDistribution, action: Tensor, old_log_prob: Tensor, config: DistillConfig) -> Tensor:
        """Product [M] of the gates that depend on the student as it is updated."""
        live = [gate.fn(student, action, old_log_prob, config) for gate in self._gates.values() if gate.live]
        return torch.stack(live).prod(0)

    def state_dict(self) -> dict[str, float]:
        """State for a resume, as JSON numbers by ``gate.name``."""
        return {f"{name}.{key}": value.item() for name, state in self._state.items() for key, value in state.items()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        for name, own in self._state.items():
            for key in own:
                own[key] = torch.tensor(state[f"{name}.{key}"])
