"""Gates by hand."""

import math

import pytest
import torch

from rpd.algorithms.distillation.gates import GATES, GateContext
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError

DISCRETE = torch.tensor([False, True])
CONFIG = DistillConfig(min_teacher_std=0.2, kde_bandwidth=0.2, bin_tail_std=0.2, gate_beta=2.0)


def gate(name: str, teacher: dict[str, torch.Tensor], context: GateContext | None = None) -> list[float]:
    return GATES[name].fn(teacher, DISCRETE, context or GateContext(), CONFIG).tolist()


def valid(n: int) -> dict[str, torch.Tensor]:
    return {"valid": torch.ones(n, dtype=torch.bool)}


def test_none_is_one() -> None:
    assert gate("none", valid(3)) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (0.4, 0.0, 1.0),  # 1 + margin, clipped
        (0.4, 0.04, 1.0),  # 0.9 + 0.1
        (0.4, 0.2, 0.6),
        (0.4, 0.4, 0.1),
        (0.4, 0.44, 0.0),
        (0.4, 0.9, 0.0),
        (0.4, None, 1.0),  # no episode has ended yet
        (0.0, 0.0, 0.1),  # a teacher that never succeeds counts for little
        (0.0, 0.01, 0.0),
    ],
)
def test_success_surpassed(teacher: float, student: float | None, expected: float) -> None:
    values = gate("success-surpassed", valid(2), GateContext(teacher, student))
    assert values == pytest.approx([expected, expected], abs=1e-6)


def test_success_surpassed_needs_the_teachers_rate() -> None:
    assert GATES["success-surpassed"].needs_success
    with pytest.raises(ConfigError, match="evaluate the teacher"):
        gate("success-surpassed", valid(1))


def test_entropy() -> None:
    # mean over dimensions of log(s / 0.2) and H(p), beta = 2
    mean = torch.tensor([[0.5, 1.0], [0.5, -1.0], [0.5, 0.0], [0.5, 0.0]])
    std = torch.tensor([[0.01, math.nan], [0.4, math.nan], [0.2, math.nan], [0.4, math.nan]])
    assert gate("entropy", {"mean": mean, "std": std}) == pytest.approx([1.0, 1 / 2, 1 / 2, 1 / 4])
    assert GATES["entropy"].needs == {"mean", "std"}


def test_names_are_those_of_the_configuration() -> None:
    assert set(GATES) == set(DistillConfig.model_fields["gate"].annotation.__args__)
