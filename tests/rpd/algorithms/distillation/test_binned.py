"""Divergences from bins: against the sums that they stand for, against Gaussians, and where both break down."""

import math

import pytest
import torch
from torch.special import log_ndtr

from rpd.algorithms.distillation import binned
from rpd.algorithms.distillation.divergences import DIVERGENCES, fkl, fkl_bins, rkl, rkl_bins
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

B = 255
EDGES = torch.linspace(-1, 1, B + 1)
GRIP = 0.8  # both open with this probability: the gripper adds nothing
PRECOMPUTE = {name: DIVERGENCES[name][0].precompute for name in ("fkl", "rkl")}


def gaussian_bins(mean: float, std: float, edges: torch.Tensor = EDGES) -> torch.Tensor:
    """Log-probabilities [B] of bins."""
    return (-0.5 * (((edges[1:] + edges[:-1]) / 2 - mean) / std).square()).log_softmax(-1)


def answer(name: str, *rows: torch.Tensor, edges: torch.Tensor = EDGES, blur=0.03, floor=1e-3) -> dict[str, torch.Tensor]:
    """What divergence `name` reads of a teacher with one arm dimension and a gripper; a row per log-probabilities [B]."""
    logits = torch.stack([torch.stack([row, torch.zeros_like(row)]) for row in rows])  # a gripper's bins are not looked at
    operator = binned.blur_operator(edges.expand(2, -1), blur)
    mean = torch.tensor([[0.0, 2 * GRIP - 1]]).expand(len(rows), 2)
    return {"mean": mean, **PRECOMPUTE[name](binned.blur(logits, operator, floor))}


def student(mean: float, std: float) -> ActionDistribution:
    raw = torch.tensor([[mean, math.log(GRIP / (1 - GRIP))]]).requires_grad_()
    return ActionDistribution(raw, torch.tensor([std, 1.0]).log().requires_grad_(), torch.tensor([False, True]))


def value(name: str, s: ActionDistribution, t: dict[str, torch.Tensor], **config) -> torch.Tensor:
    return DIVERGENCES[name][0].fn(s, t, DistillConfig(detach_std=False, **config))


def log_masses(mean: float, std: float) -> torch.Tensor:
    """log P_b [CELLS] of N(mean, std²), the outermost with the tails, in double precision and without a cancellation."""
    edges = torch.linspace(-1, 1, binned.CELLS + 1, dtype=torch.float64)
    edges[0], edges[-1] = -math.inf, math.inf
    z = (edges - mean) / std
    left, right = log_ndtr(z), log_ndtr(-z)
    near, far = torch.where(z[1:] + z[:-1] < 0, left[1:], right[:-1]), torch.where(z[1:] + z[:-1] < 0, left[:-1], right[1:])
    return near + torch.log1p(-torch.exp(far - near))


def gaussian_kl(gap: float, p: float, q: float) -> float:
    return math.log(q / p) + (p**2 + gap**2) / (2 * q**2) - 0.5


def test_bins_come_first() -> None:
    assert DIVERGENCES["fkl"][0].fn is fkl_bins and DIVERGENCES["rkl"][0].fn is rkl_bins
    assert DIVERGENCES["fkl"][-1].fn is fkl and DIVERGENCES["rkl"][-1].fn is rkl


def test_blur_keeps_the_mass_and_the_mean_and_adds_its_variance() -> None:
    operator = binned.blur_operator(EDGES[None], 0.05)
    torch.testing.assert_close(operator.sum(-1), torch.ones(1, B))
    mass = binned.blur(gaussian_bins(0.3, 0.1)[None, None], operator, 1e-9).exp()
    x = torch.linspace(-1 + binned.WIDTH / 2, 1 - binned.WIDTH / 2, binned.CELLS)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    mean = (mass @ x).item()
    assert mean == pytest.approx(0.3, abs=1e-4)
    assert (mass * (x - mean).square()).sum().item() == pytest.approx(0.1**2 + 0.05**2 + binned.WIDTH**2 / 12, rel=1e-3)


def test_floor_is_spread_widely_about_the_mean() -> None:
    sure = gaussian_bins(0.5, 0.001)[None, None]
    log_mass = binned.blur(sure, binned.blur_operator(EDGES[None], 0.02), 0.01)[0, 0]
    centres = torch.linspace(-1 + binned.WIDTH / 2, 1 - binned.WIDTH / 2, binned.CELLS)
    wide = (-0.5 * ((centres - 0.5) / binned.TAIL).square()).softmax(-1)
    far = centres < 0.3
    torch.testing.assert_close(log_mass[far], (0.01 * wide[far]).log(), atol=0.02, rtol=0)
    assert log_mass.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("std", [0.06, 0.15, 0.6])
@pytest.mark.parametrize("mean", [0.0, 0.3, -0.9, 1.2])
def test_closed_forms_equal_sums_over_bins(mean: float, std: float) -> None:
    """sum_b P_b (log P_b - log q~_b) and sum_b q~_b (log q~_b - log P_b), P_b = Phi(z_{b+1}) - Phi(z_b), term by term."""
    logits = gaussian_bins(0.1, 0.1)
    log_q = binned.blur(logits[None, None], binned.blur_operator(EDGES[None], 0.03), 1e-3)[0, 0].double()
    log_p = log_masses(mean, std)
    reverse = (log_p.exp() * (log_p - log_q)).sum().item()
    forward = (log_q.exp() * (log_q - log_p)).sum().item()
    m, s = torch.tensor([[mean]]), torch.tensor([[std]])
    log_mass = log_q.float()[None, None]
    moments = binned.moments(log_mass)
    assert (binned.neg_entropy(m, s) - binned.expected(binned.steps(log_mass), m, s)).item() == pytest.approx(reverse, rel=0.01)
    assert (moments["neg_entropy"] + binned.cross_entropy(moments, m, s)).item() == pytest.approx(forward, rel=0.01)


def test_gaussians_in_bins_are_as_far_apart_as_gaussians() -> None:
    # VLA-OPD's direction, sigma 0.15 against 0.10, 0.1 apart: 0.720
    exact = gaussian_kl(0.1, 0.15, 0.10)
    assert exact == pytest.approx(0.7195, abs=1e-4)
    blurred = math.sqrt(0.1**2 - 0.02**2)  # of which the blur makes 0.1
    t = answer("rkl", gaussian_bins(0.0, blurred), blur=0.02, floor=1e-7)
    assert value("rkl", student(0.1, 0.15), t).item() == pytest.approx(exact, rel=0.01)
    t = answer("fkl", gaussian_bins(0.0, blurred), blur=0.02, floor=1e-7)
    assert value("fkl", student(0.1, 0.15), t).item() == pytest.approx(gaussian_kl(0.1, 0.10, 0.15), rel=0.01)


@pytest.mark.parametrize("name", PRECOMPUTE)
def test_zero_iff_equal(name: str) -> None:
    t = answer(name, gaussian_bins(0.2, math.sqrt(0.15**2 - 0.03**2)), floor=1e-6)
    assert value(name, student(0.2, 0.15), t).item() == pytest.approx(0, abs=1e-3)
    for mean, std in ((0.23, 0.15), (0.1, 0.15), (0.2, 0.17), (0.2, 0.13), (-0.9, 0.02), (0.2, 1.6), (3.0, 0.15)):
        assert value(name, student(mean, std), t).item() > 5e-3, (mean, std)


@pytest.mark.parametrize("name", PRECOMPUTE)
@pytest.mark.parametrize("std", [0.0184, 0.2, 1.6])  # the smallest and the largest sigma of a student
@pytest.mark.parametrize("mean", [-0.6, -1.1, -2.0, -50.0])
def test_far_from_a_sure_teacher_the_gradient_is_finite_and_pulls(name: str, std: float, mean: float) -> None:
    for teacher_std in (1e-3, 0.2):
        s = student(mean, std)
        d = value(name, s, answer(name, gaussian_bins(0.6, teacher_std)))
        d.sum().backward()
        assert torch.isfinite(d).all() and torch.isfinite(s.raw.grad).all() and torch.isfinite(s.log_std.grad).all()
        assert -1e3 < s.raw.grad[0, 0].item() < -0.02
        assert abs(s.raw.grad[0, 1].item()) < 1e-6


def test_uniform_mix_has_no_gradient_far_away() -> None:
    """Why the floor is not flat: five sigma from a teacher that is sure, its density is all there is to feel."""
    logits, operator = gaussian_bins(0.6, 1e-3)[None, None], binned.blur_operator(EDGES[None], 0.03)
    even = (1 - 1e-3) * logits.exp() @ operator + 1e-3 / binned.CELLS
    slopes = []
    for log_q in (binned.blur(logits, operator, 1e-3), even.log()):
        mean = torch.tensor([[-0.4]], requires_grad=True)
        binned.expected(binned.steps(log_q), mean, torch.tensor([[0.2]])).sum().backward()
        slopes.append(mean.grad.item())
    assert slopes[0] > 100 * abs(slopes[1])


def test_two_modes() -> None:
    """Reverse KL settles in one mode, forward KL between them, as wide as both."""
    bimodal = torch.logaddexp(gaussian_bins(-0.5, 0.08), gaussian_bins(0.5, 0.08)) - math.log(2)
    means = torch.linspace(-0.9, 0.9, 37).tolist()
    reverse = [value("rkl", student(m, 0.1), answer("rkl", bimodal)).item() for m in means]
    assert abs(means[reverse.index(min(reverse))]) == pytest.approx(0.5, abs=0.03)
    assert min(reverse) == pytest.approx(math.log(2), abs=0.1)  # one of two
    forward = [value("fkl", student(m, 0.5), answer("fkl", bimodal)).item() for m in means]
    assert means[forward.index(min(forward))] == pytest.approx(0.0, abs=0.03)
    stds = [0.1, 0.3, 0.5, 0.7, 0.9]
    forward = [value("fkl", student(0.0, s), answer("fkl", bimodal)).item() for s in stds]
    assert stds[forward.index(min(forward))] == 0.5


@pytest.mark.parametrize("name", PRECOMPUTE)
@pytest.mark.parametrize("width", [0.0, 1e-6])
def test_constant_dimension(name: str, width: float) -> None:
    """All bins in one point: the teacher is N(point, blur²), whichever bin it names."""
    edges = 0.25 + width * torch.linspace(-1, 1, 6)
    for logits in (torch.full((5,), -math.log(5)), torch.tensor([0.0, -50, -50, -50, -50])):
        t = answer(name, logits, edges=edges)
        at = {m: value(name, student(m, 0.05), t).item() for m in (-0.3, 0.2, 0.25, 0.3, 0.8)}
        assert at[0.25] < min(at[0.2], at[0.3]) < at[0.8] < 30
        s = student(0.8, 0.02)
        value(name, s, t).sum().backward()
        assert torch.isfinite(s.raw.grad).all() and s.raw.grad[0, 0] > 0.02


@pytest.mark.parametrize("name", PRECOMPUTE)
def test_bins_narrower_or_wider_than_the_action_range(name: str) -> None:
    narrow = torch.linspace(-0.2, 0.4, B + 1)
    means = torch.linspace(-1, 1, 41).tolist()
    t = answer(name, gaussian_bins(0.4, 0.02, narrow), edges=narrow)  # as far as it can go
    at = [value(name, student(m, 0.05), t).item() for m in means]
    assert means[at.index(min(at))] == pytest.approx(0.4, abs=0.051)
    wide = torch.linspace(-3, 3, B + 1)
    t = answer(name, gaussian_bins(2.0, 0.1, wide), edges=wide)  # clipped, like whatever the student does beyond 1
    assert value(name, student(1.3, 0.1), t).item() < value(name, student(0.9, 0.1), t).item()
    assert value(name, student(1.3, 0.1), t).item() < value(name, student(2.5, 0.1), t).item()


@pytest.mark.parametrize("name", PRECOMPUTE)
def test_rows_are_independent_and_the_std_is_detached(name: str) -> None:
    first, second = gaussian_bins(0.1, 0.1), gaussian_bins(-0.4, 0.05)
    s = ActionDistribution(student(0.0, 0.2).raw.expand(2, 2), student(0.0, 0.2).log_std, torch.tensor([False, True]))
    both = value(name, s, answer(name, first, second))
    alone = torch.cat([value(name, student(0.0, 0.2), answer(name, row)) for row in (first, second)])
    torch.testing.assert_close(both, alone)
    s = student(0.0, 0.2)
    DIVERGENCES[name][0].fn(s, answer(name, first), DistillConfig(detach_std=True)).sum().backward()
    assert s.log_std.grad is None and s.raw.grad[0, 0] != 0


def test_log_density_is_that_of_the_cell() -> None:
    log_mass = torch.randn(1, 1, binned.CELLS).log_softmax(-1)
    for action, cell in ((-1.0, 0), (-5.0, 0), (-1 + 2.5 * binned.WIDTH, 2), (0.0, binned.CELLS // 2), (1.0, -1), (1e9, -1)):
        density = binned.log_density(log_mass, torch.tensor([[action]]))
        assert density.item() == pytest.approx(log_mass[0, 0, cell].item() - math.log(binned.WIDTH), abs=1e-5)


def test_overshoot_by_hand() -> None:
    x = torch.tensor([-1.4, -1.0, 0.3, 1.0, 1.2])
    torch.testing.assert_close(binned.overshoot(x, -1, 1, 0.2), torch.tensor([2.0, 0.0, 0.0, 0.0, 0.5]), atol=1e-5, rtol=0)
