"""Weights over a run, by hand."""

import json

import pytest
import torch

from rpd.algorithms.distillation.schedules import CURVES, Schedule
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError

CPU = torch.device("cpu")


def schedule(name: str, **kwargs) -> Schedule:
    return Schedule(DistillConfig(schedule=name, weight=2.0, decay_steps=80, **kwargs))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0, 2.0]),
        ("linear", [2.0, 1.5, 1.0, 0.0, 0.0]),
        ("cosine", [2.0, 1 + 2**-0.5, 1.0, 0.0, 0.0]),
    ],
)
def test_curves(name: str, expected: list[float]) -> None:
    weights = []
    s = schedule(name)
    for step in (0, 20, 40, 80, 100):
        s.begin(step, CPU)
        weights.append(s.weight.item())
    assert weights == pytest.approx(expected)


def test_piecewise_by_hand() -> None:
    s = Schedule(DistillConfig(schedule="piecewise", points="10:0,20:2,40:1,50:0", reward_points="0:0,20:0,40:1"))
    steps = (0, 10, 15, 20, 30, 45, 50, 99)
    assert [s.value(step) for step in steps] == pytest.approx([0, 0, 1, 2, 1.5, 0.5, 0, 0])
    assert [s.reward_weight(step) for step in steps] == pytest.approx([0, 0, 0, 0, 0.5, 1, 1, 1])
    assert s.active(0) and s.active(49) and not s.active(50)  # zero now, but not later
    assert schedule("linear").reward_weight(0) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": "0:1,x"}, "'0:1,x' is no list of points: STEP:VALUE"),
        ({"points": "10:1,10:0"}, "steps have to be 0 or more and increase"),
        ({"points": "0:-1"}, "values have to be 0 or more"),
        ({"reward_points": "0:0,10:0.5"}, "the last value has to be 1"),
        ({"points": "0:1"}, "schedule piecewise and distill.points belong together"),
        ({"schedule": "piecewise"}, "schedule piecewise and distill.points belong together"),
    ],
)
def test_points_that_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(DistillConfig(**given))


def test_active_until_zero_for_good() -> None:
    for name in ("linear", "cosine", "gradient-ratio"):
        s = schedule(name)
        assert s.active(0) and s.active(79) and not s.active(80) and not s.active(100)
    assert schedule("constant").active(100)
    assert not Schedule(DistillConfig(schedule="constant", weight=0.0)).active(0)


def test_gradient_ratio_holds_the_ratio() -> None:
    s = schedule("gradient-ratio")
    s.begin(0, CPU)
    assert s.weight.item() == 0.0  # nothing measured yet
    s.observe(torch.tensor([4.0, 1.0]))  # ||grad D||, ||grad RL||
    assert s.weight.item() == pytest.approx(2.0 * 1 / 4)
    s.begin(40, CPU)  # rho = 1
    assert s.weight.item() == pytest.approx(1.0 * 1 / 4)
    s.observe(torch.tensor([14.0, 2.0]))  # running: 0.9 * 4 + 0.1 * 14 = 5 and 1.1
    assert s.weight.item() == pytest.approx(1.1 / 5)
    s.begin(80, CPU)
    assert s.weight.item() == 0.0


def test_gradient_ratio_is_bounded_at_zero_distillation_gradient() -> None:
    s = schedule("gradient-ratio")
    s.begin(0, CPU)
    s.observe(torch.tensor([0.0, 1.0]))  # no label in this minibatch
    assert s.weight.item() == 0.0
    s.observe(torch.tensor([1e-9, 1.0]))
    assert s.weight.item() == Schedule.MAX_WEIGHT
    s = schedule("gradient-ratio")
    s.begin(0, CPU)
    for norms in ([4.0, 1.0], [0.0, 3.0]):
        s.observe(torch.tensor(norms))
    assert s.weight.item() == pytest.approx(2.0 * 1 / 4)  # the last good measurement stands


def test_resume_is_exact() -> None:
    a, b = schedule("gradient-ratio"), schedule("gradient-ratio")
    assert a.state_dict() == {}
    a.load_state_dict({})
    a.begin(10, CPU)
    for norms in ([0.3, 0.7], [1 / 3, 0.1]):
        a.observe(torch.tensor(norms))
    b.load_state_dict(json.loads(json.dumps(a.state_dict())))
    for s in (a, b):
        s.begin(20, CPU)
    assert torch.equal(a.weight, b.weight)
    for s in (a, b):
        s.observe(torch.tensor([0.9, 0.2]))
    assert torch.equal(a.weight, b.weight)


def test_names_are_those_of_the_configuration() -> None:
    assert set(CURVES) == set(DistillConfig.model_fields["schedule"].annotation.__args__)
