"""Rank and gap: the formulas by hand, and where their optima lie for each kind of teacher."""

import itertools
import math

import pytest
import torch

from rpd.algorithms.distillation import binned
from rpd.algorithms.distillation.candidates import COUNT, pairwise_gap, plackett_luce
from rpd.algorithms.distillation.divergences import DIVERGENCES
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

CONFIG = DistillConfig(min_teacher_std=0.02, kde_bandwidth=0.1, detach_std=False)
DISCRETE = torch.tensor([False, False, True])
KINDS = ("bins", "samples", "gaussian")


def student(mean=(0.0, 0.0), std=(0.2, 0.2), p=0.8) -> ActionDistribution:
    raw = torch.tensor([[*mean, math.log(p / (1 - p))]]).requires_grad_()
    return ActionDistribution(raw, torch.tensor([*std, 1.0]).log().requires_grad_(), DISCRETE)


def teacher(kind: str, mean=(0.3, -0.3), std=0.1) -> dict[str, torch.Tensor]:
    point = torch.tensor([[*mean, 0.6]])
    if kind == "gaussian":
        return {"mean": point, "std": torch.tensor([[std, std, math.nan]])}
    if kind == "samples":
        spread = torch.tensor([[-1.0, 1.0, 0], [1.0, 1.0, 0], [-1.0, -1.0, 0], [1.0, -1.0, 0]])
        return {"mean": point, "samples": point[:, None] + 0.5 * std * spread}
    centres = torch.linspace(-1 + binned.WIDTH / 2, 1 - binned.WIDTH / 2, binned.CELLS)
    mass = (-0.5 * ((centres - point[..., None]) / std).square()).softmax(-1)
    return {"mean": point, "log_mass": binned.floored(mass, 1e-3)}


def value(name: str, kind: str, s: ActionDistribution, t: dict[str, torch.Tensor]) -> torch.Tensor:
    return DIVERGENCES[name][KINDS.index(kind)].fn(s, t, CONFIG)


def test_plackett_luce_by_hand() -> None:
    s, t = torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    # the teacher's order: second, first, third
    weights = [math.exp(x) / (1 + math.e + 1 / math.e) for x in (1.0, 0.0, -1.0)]
    places = [-1.0 - math.log(math.exp(-1) + math.exp(0.5) + math.exp(2)), 0.5 - math.log(math.exp(0.5) + math.exp(2)), 0.0]
    expected = -sum(w * x for w, x in zip(weights, places, strict=True))
    assert plackett_luce(s, t).item() == pytest.approx(expected, rel=1e-5)
    # the likelihoods of all orders add up to 1: the formula with equal weights is one of them
    total = 0.0
    for order in itertools.permutations(range(3)):
        ordered = s[list(order), 0]
        total += math.exp(sum(float(ordered[i] - ordered[i:].logsumexp(0)) for i in range(3)))
    assert total == pytest.approx(1, rel=1e-5)


def test_pairwise_gap_by_hand() -> None:
    s, t = torch.tensor([[0.0], [1.0], [0.5]]), torch.tensor([[2.0], [1.0], [0.0]])
    gaps_t, gaps_s = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, -0.5, 0.5])  # pairs 12, 13, 23
    log_t, log_s = gaps_t.log_softmax(0), gaps_s.log_softmax(0)
    assert pairwise_gap(s, t).item() == pytest.approx((log_t.exp() * (log_t - log_s)).sum().item(), rel=1e-5)
    assert pairwise_gap(t + 3.0, t).item() == pytest.approx(0, abs=1e-6)  # an offset drops out


@pytest.mark.parametrize("name", ["rank", "gap"])
@pytest.mark.parametrize("kind", KINDS)
def test_pulls_towards_the_teacher_and_is_finite(name: str, kind: str) -> None:
    torch.manual_seed(0)
    for mean, std in (((0.0, 0.0), 0.2), ((-1.0, 1.0), 0.02), ((3.0, 0.0), 1.0)):
        s = student(mean, (std, std), p=0.5)
        d = value(name, kind, s, teacher(kind))
        d.sum().backward()
        assert d.shape == (1,) and torch.isfinite(d).all() and torch.isfinite(s.raw.grad).all()
        assert torch.isfinite(s.log_std.grad).all()
        if mean == (0.0, 0.0):
            assert s.raw.grad[0, 0] < 0 < s.raw.grad[0, 1] and s.raw.grad[0, 2] < 0


@pytest.mark.parametrize("kind", ["bins", "gaussian"])
def test_gap_is_zero_where_equal(kind: str) -> None:
    equal = student((0.3, -0.3), (0.1, 0.1))
    assert value("gap", kind, equal, teacher(kind)).item() == pytest.approx(0, abs=1e-2)
    for other in (
        student((0.35, -0.3), (0.1, 0.1)),
        student((0.3, -0.3), (0.15, 0.1)),
        student((0.3, -0.3), (0.1, 0.1), p=0.6),
    ):
        assert value("gap", kind, other, teacher(kind)).item() > 2e-2


def test_rank_of_a_gaussian_by_hand() -> None:
    # equal means: the middle candidates first; scores by the levels (k - 1/2) / K
    z = torch.special.ndtri((torch.arange(COUNT) + 0.5) / COUNT)
    expected = plackett_luce((-0.5 * z.square())[:, None], (-0.5 * (2 * z).square())[:, None]).item()
    d = value("rank", "gaussian", student((0.3, -0.3)), teacher("gaussian"))
    assert d.item() == pytest.approx(2 * expected, rel=1e-4)
