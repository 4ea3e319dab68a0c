"""Gates by hand, their product, and what is refused."""

import json
import math

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms.distillation.gate_product import EXCLUSIVE, GateProduct
from rpd.algorithms.distillation.gates import GATES, GateContext, Rows
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = torch.tensor([False, True])
CONFIG = DistillConfig(min_teacher_std=0.2, gate_beta=2.0)
ALL = ("mean", "std", "samples", "bin_logits", "log_prob")
KINDS = ("std", "samples", "bin_logits")


def teacher(mean=(0.5, 1.0), std: float | None = None, n: int = 1, **fields: torch.Tensor) -> dict[str, torch.Tensor]:
    given = {"valid": torch.ones(n, dtype=torch.bool), "mean": torch.tensor([mean]).repeat(n, 1)}
    if std is not None:
        given["std"] = torch.tensor([[std, math.nan]]).repeat(n, 1)
    return given | fields


def rows(given: dict[str, torch.Tensor], context: GateContext | None = None, config=CONFIG, **batch) -> Rows:
    edges = torch.linspace(-1, 1, 11).expand(2, -1)
    count = len(given["valid"])
    return Rows(given, TensorDict(batch, [count]), DISCRETE, context or GateContext(), config, edges)


def gate(name: str, given: dict[str, torch.Tensor], context=None, variant: int = 0, config=CONFIG, **batch) -> list[float]:
    return GATES[name][variant].fn(rows(given, context, config, **batch)).tolist()


def behavior(mean: float, std: float, n: int = 1, logit: float = 0.0) -> TensorDict:
    raw = torch.tensor([[mean, logit]]).repeat(n, 1)
    return TensorDict({"raw": raw, "log_std": torch.full_like(raw, math.log(std))}, [n])


def product(names: str, fields=ALL, use_reward: bool = True, **config) -> GateProduct:
    return GateProduct(DistillConfig(gate=names, **config), "x", fields, use_reward)


@pytest.mark.parametrize(
    ("of_teacher", "of_student", "expected"),
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
def test_success_surpassed(of_teacher: float, of_student: float | None, expected: float) -> None:
    values = gate("success-surpassed", teacher(n=2), GateContext(of_teacher, of_student))
    assert values == pytest.approx([expected, expected], abs=1e-6)


def test_success_surpassed_needs_the_teachers_rate() -> None:
    with pytest.raises(ConfigError, match="evaluate the teacher"):
        gate("success-surpassed", teacher())


def test_entropy() -> None:
    # mean over dimensions of log(s / 0.2) and H(p), beta = 2
    mean = torch.tensor([[0.5, 1.0], [0.5, -1.0], [0.5, 0.0], [0.5, 0.0]])
    std = torch.tensor([[0.01, math.nan], [0.4, math.nan], [0.2, math.nan], [0.4, math.nan]])
    assert gate("entropy", teacher(n=4) | {"mean": mean, "std": std}) == pytest.approx([1.0, 1 / 2, 1 / 2, 1 / 4])
    assert [variant.needs for variant in GATES["entropy"]] == [{"mean", kind} for kind in KINDS]


def test_each_kind_of_teacher_has_a_spread() -> None:
    # 0.4 as a std, as samples at +-0.4, as two bins at +-0.4 about 0.1: g = exp(-2 (log 2) / 2) = 1 / 2
    samples = torch.tensor([[[0.1, 1.0], [0.9, 1.0]]])
    logits = torch.full((1, 2, 10), -50.0)
    logits[0, 0, [3, 7]] = 0.0
    for i, given in enumerate((teacher(std=0.4), teacher(samples=samples), teacher(bin_logits=logits.log_softmax(-1)))):
        assert gate("entropy", given, variant=i) == pytest.approx([0.5], rel=1e-5)


def test_relative_entropy() -> None:
    # H_S = (log(0.8 / 0.2) + log 2) / 2, H_T = (log(0.4 / 0.2) + 0) / 2: sigmoid(log 2) = 2 / 3
    assert gate("relative-entropy", teacher(std=0.4), behavior=behavior(0.0, 0.8)) == pytest.approx([2 / 3], rel=1e-5)
    # equally sure
    assert gate("relative-entropy", teacher(std=0.4), behavior=behavior(0.0, 0.4, logit=-80.0)) == pytest.approx(
        [0.5], rel=1e-5
    )


def test_confidence() -> None:
    for std, expected in ((0.0, 1.0), (0.15, 0.75), (0.3, 0.0), (0.9, 0.0)):
        assert gate("confidence", teacher(std=std)) == pytest.approx([expected], abs=1e-6)


def episodes(success: list[list[float]], ended: list[list[bool]]) -> dict[str, torch.Tensor]:
    """A batch [T, N] as rows."""
    over = torch.tensor(ended).flatten()
    return {
        "success": torch.tensor(success, dtype=torch.float32).flatten(),
        "terminated": over,
        "truncated": torch.zeros_like(over),
    }


# Environment 0: a solved episode of two steps, then an unfinished one. Environment 1: a failed episode of three steps.
TWO = episodes([[0, 0], [1, 0], [0, 0], [0, 0]], [[False, False], [True, False], [False, True], [False, False]])
SEEN = GateContext(student_success=0.25, num_envs=2)


def test_outcome_of_an_episode_reaches_all_of_its_rows() -> None:
    assert gate("solved-episodes", teacher(n=8), SEEN, **TWO) == [1, 0, 1, 0, 0.25, 0, 0.25, 0.25]
    assert gate("failed-episodes", teacher(n=8), SEEN, **TWO) == [0, 1, 0, 1, 0.75, 1, 0.75, 0.75]


def test_scope_weights_failed_episodes_by_their_likelihood() -> None:
    # a failed episode of two steps, (a - m) / c = 1 and 2: l = -(1/2 + 2) / 2; another, with one labeled row: -1/2; mean -1
    batch = episodes([[0, 0], [0, 0]], [[False, False], [True, True]])
    given = teacher((0.0, 1.0), n=4)
    given["valid"] = torch.tensor([True, True, True, False])
    action = torch.tensor([[0.2, 1.0], [-0.2, 1.0], [0.4, -1.0], [9.0, 1.0]])
    values = gate("scope", given, GateContext(num_envs=2), action=action, **batch)
    assert values == pytest.approx([math.exp(-0.25), 1.0, math.exp(-0.25), 1.0])
    batch = episodes([[0, 0], [1, 1]], [[False, False], [True, True]])
    assert gate("scope", given, GateContext(num_envs=2), action=action, **batch) == [0, 0, 0, 0]


def test_in_distribution_closes_after_foreign_actions_and_opens_with_an_episode() -> None:
    # d = 0.9 + 0.1 * 11² after a distance of 11 c, then 0.9 d + 0.1; one environment, a new episode at the fourth step
    action = torch.tensor([[2.2, 1.0], [0.2, 1.0], [0.0, 1.0], [0.0, 1.0]])
    batch = episodes([[0], [0], [0], [0]], [[False], [False], [True], [False]])
    d = 0.9 + 0.1 * 121
    expected = [1.0, math.exp(-(d - 1)), math.exp(-(0.9 * d + 0.1 - 1)), 1.0]
    assert gate("in-distribution", teacher((0.0, 1.0), n=4), action=action, **batch) == pytest.approx(expected, rel=1e-4)


def test_calibrated_confidence_is_the_regression_of_success_on_confidence() -> None:
    # confidence 3/4 in an episode that succeeds, 0 in one that fails: the line through both
    given = teacher(n=4) | {"std": torch.tensor([[0.15, 0.0], [0.3, 0.0]] * 2)}
    batch = episodes([[0, 0], [1, 0]], [[False, False], [True, True]])
    gates = product("calibrated-confidence", min_teacher_std=0.2)
    context = GateContext(num_envs=2)
    assert gates.compute(rows(given, context, **batch)).tolist() == pytest.approx([1, 0, 1, 0], abs=1e-4)
    between = teacher(n=4) | {"std": torch.tensor([[0.3 * math.sqrt(0.625), 0.0]] * 4)}  # confidence 3/8
    unfinished = episodes([[0, 0], [0, 0]], [[False, False], [False, False]])
    assert gates.compute(rows(between, context, **unfinished)).tolist() == pytest.approx([0.5] * 4, abs=1e-4)
    resumed = product("calibrated-confidence", min_teacher_std=0.2)
    assert resumed.compute(rows(between, context, **unfinished)).tolist() == pytest.approx([0.375] * 4)  # nothing known yet
    resumed.load_state_dict(json.loads(json.dumps(gates.state_dict())))
    again = [g.compute(rows(between, context, **unfinished)) for g in (gates, resumed)]
    assert torch.equal(again[0], again[1])


def test_agreement_of_reward_and_teacher() -> None:
    # the teacher is to the right of the student; actions right, left, right, left; advantages +, -, -, + about their mean
    action = torch.tensor([[0.3, 1.0], [-0.3, 1.0], [0.3, 1.0], [-0.3, 1.0]])
    advantage = torch.tensor([6.0, 4.0, 4.0, 6.0])
    batch = {"action": action, "advantage": advantage, "behavior": behavior(0.0, 0.3, 4)}
    assert gate("agreement", teacher(n=4), **batch) == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_teacher_advantage_is_per_level_of_value() -> None:
    # at low values the teacher's side is better, at high values worse
    n = 400
    g = torch.Generator().manual_seed(0)
    value = torch.cat([torch.zeros(n // 2), torch.ones(n // 2)])
    action = torch.stack([0.3 * torch.randn(n, generator=g), torch.ones(n)], -1)
    advantage = action[:, 0] * (1 - 2 * value)
    batch = {"action": action, "advantage": advantage, "behavior": behavior(0.0, 0.3, n), "value": value}
    values = gate("teacher-advantage", teacher(n=n), **batch)
    low, high = values[0], values[-1]
    assert low > 0.99 and high < 0.01 and values == [low] * (n // 2) + [high] * (n // 2)
    # by hand, one row per level: t = sign
    two = {"action": action[:2].abs(), "advantage": torch.tensor([1.0, -1.0]), "behavior": behavior(0.0, 0.3, 2)}
    expected = [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]
    assert gate("teacher-advantage", teacher(n=2), **two, value=torch.tensor([0.0, 1.0])) == pytest.approx(expected, rel=1e-4)


def test_trust_region_is_the_clipped_ratio() -> None:
    student = ActionDistribution(torch.tensor([[0.0, 0.0]] * 4), torch.zeros(2), DISCRETE)
    action = torch.zeros(4, 2)
    old = student.log_prob(action) - torch.tensor([0.5, 0.9, 1.0, 3.0]).log()
    values = product("trust-region").live(student, action, old, CONFIG)
    assert values.tolist() == pytest.approx([0.8, 0.9, 1.0, 1.0])


def test_product_and_unlabeled_rows() -> None:
    given = teacher(std=0.4, n=2)
    given["valid"] = torch.tensor([True, False])
    context = GateContext(0.4, 0.2)
    gates = product("entropy,success-surpassed,confidence", min_teacher_std=0.2, gate_beta=2.0, gate_std=0.8)
    wide = CONFIG.model_copy(update={"gate_std": 0.8})
    assert gates.compute(rows(given, context, wide)).tolist() == pytest.approx([0.5 * 0.6 * 0.75, 0.0])
    assert gates.needs == {"mean", "std"} and gates.keeps == set() and not gates.is_live
    assert product("none").compute(rows(given)).tolist() == [1.0, 0.0]
    assert product("agreement,failed-episodes").keeps == {"behavior", "success"}
    one = product("entropy", min_teacher_std=0.2, gate_beta=2.0)
    both = product("entropy,solved-episodes", min_teacher_std=0.2, gate_beta=2.0)
    solved = episodes([[1.0], [1.0]], [[True], [True]])
    assert torch.equal(both.compute(rows(given, **solved)), one.compute(rows(given)))  # a gate of 1 is no gate


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown gate 'entrpy': did you mean entropy"):
        DistillConfig(gate="scope,entrpy")
    with pytest.raises(ConfigError, match=r"names entropy twice"):
        DistillConfig(gate="entropy,scope,entropy")
    with pytest.raises(ConfigError, match=r"gate entropy needs the teacher's std or samples or bin_logits, .* only mean"):
        product("scope,entropy", {"mean"})
    with pytest.raises(
        ConfigError, match=r"gate agreement reads the reward's advantage, .* use algorithm rpd, or one of calib"
    ):
        product("agreement", use_reward=False)
    for one, other in EXCLUSIVE:
        with pytest.raises(ConfigError, match=rf"the product of {one} and {other} is 0"):
            product(f"{other},{one}")


def test_every_gate_has_a_variant() -> None:
    assert all(GATES.values())
