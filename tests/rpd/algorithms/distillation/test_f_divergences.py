"""f-divergences against sums and integrals in double precision, and what the kinds of teachers have in common."""

import math

import pytest
import torch
from torch.distributions import Normal

from rpd.algorithms.distillation import binned
from rpd.algorithms.distillation.divergences import DIVERGENCES
from rpd.algorithms.distillation.f_divergences import GENERATORS
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

CONFIG = DistillConfig(min_teacher_std=0.02, uniform_mix=1e-6, kde_bandwidth=0.1, detach_std=False)
NAMES = sorted(GENERATORS)
BOUND = {"jsd": math.log(2), "skew-fkl": math.log(10), "skew-rkl": math.log(10), "tv": 1.0}
DISCRETE = torch.tensor([False, True])


def student(mean: float, std: float, p: float = 0.8) -> ActionDistribution:
    raw = torch.tensor([[mean, math.log(p / (1 - p))]]).requires_grad_()
    return ActionDistribution(raw, torch.tensor([std, 1.0]).log().requires_grad_(), DISCRETE)


def of_kind(kind: str, mean: float, std: float, p: float = 0.8) -> dict[str, torch.Tensor]:
    """A Gaussian teacher [1], given as its mean and std, as 255 bins, or as one sample of a kernel as wide."""
    point = torch.tensor([[mean, 2 * p - 1]])
    if kind == "gaussian":
        return {"mean": point, "std": torch.tensor([[std, math.nan]])}
    if kind == "samples":
        return {"mean": point, "samples": point[:, None]}
    edges = torch.linspace(-1, 1, 256)
    logits = Normal(mean, math.sqrt(std**2 - 0.01**2)).log_prob((edges[1:] + edges[:-1]) / 2).log_softmax(-1)
    blurred = binned.blur(logits.expand(1, 2, -1), binned.blur_operator(edges.expand(2, -1), 0.01), 1e-6)
    return {"mean": point, "log_mass": blurred}


def value(name: str, kind: str, s: ActionDistribution, t: dict[str, torch.Tensor], config=CONFIG) -> torch.Tensor:
    variant = DIVERGENCES[name][("bins", "samples", "gaussian").index(kind)]
    assert ("bin_logits" in variant.needs) == (kind == "bins") and ("samples" in variant.needs) == (kind == "samples")
    return variant.fn(s, t, config)


def integral(name: str, mean: float, std: float, teacher_mean: float, teacher_std: float) -> float:
    """The definition with two KLs or densities, on a fine grid."""
    x = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    p, q = Normal(mean, std).log_prob(x).exp(), Normal(teacher_mean, teacher_std).log_prob(x).exp()

    def kl(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.trapezoid(torch.special.xlogy(a, a) - torch.special.xlogy(a, b), x).item()

    return {
        "jsd": lambda: 0.5 * kl(q, (p + q) / 2) + 0.5 * kl(p, (p + q) / 2),
        "skew-fkl": lambda: kl(q, 0.1 * q + 0.9 * p),
        "skew-rkl": lambda: kl(p, 0.1 * p + 0.9 * q),
        "tv": lambda: torch.trapezoid((p - q).abs() / 2, x).item(),
        "chi2": lambda: torch.trapezoid((p - q).square() / q.clamp_min(1e-300), x).item(),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_gaussians_and_bins_within_one_percent_of_the_integral(name: str) -> None:
    for mean, std in ((0.1, 0.13), (0.15, 0.1), (0.05, 0.12)):
        truth = integral(name, mean, std, 0.0, 0.12)
        for kind in ("gaussian", "bins"):
            assert value(name, kind, student(mean, std), of_kind(kind, 0.0, 0.12)).item() == pytest.approx(truth, rel=0.01)


def test_chi_square_of_equal_widths_in_closed_form() -> None:
    # exp(gap² / s²) - 1
    d = value("chi2", "gaussian", student(0.1, 0.1), of_kind("gaussian", 0.0, 0.1))
    assert d.item() == pytest.approx(math.e - 1, rel=0.01)


def test_samples_agree_with_the_integral() -> None:
    torch.manual_seed(0)
    for name in ("jsd", "skew-fkl", "skew-rkl", "tv"):
        s = ActionDistribution(torch.tensor([[0.1, 0.0]]).repeat(20_000, 1), torch.tensor([0.12, 1.0]).log(), DISCRETE)
        t = {k: v.expand(20_000, *v.shape[1:]) for k, v in of_kind("samples", 0.0, 0.1, p=0.5).items()}
        assert value(name, "samples", s, t).mean().item() == pytest.approx(integral(name, 0.1, 0.12, 0.0, 0.1), rel=0.03), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gaussian", "bins", "samples"])
def test_zero_iff_equal(name: str, kind: str) -> None:
    torch.manual_seed(0)
    assert value(name, kind, student(0.2, 0.1), of_kind(kind, 0.2, 0.1)).item() == pytest.approx(0, abs=2e-4)
    for other in (student(0.25, 0.1), student(0.2, 0.14), student(0.2, 0.1, p=0.6)):
        assert value(name, kind, other, of_kind(kind, 0.2, 0.1)).item() > 2e-3


def test_gripper_by_hand() -> None:
    # p_S = 1/2, p_T = 3/4; M = (5/8, 3/8)
    m, t = (5 / 8, 3 / 8), (3 / 4, 1 / 4)
    expected = {
        "jsd": 0.5 * sum(q * math.log(q / x) for q, x in zip(t, m, strict=True))
        + 0.5 * sum(0.5 * math.log(0.5 / x) for x in m),
        "skew-fkl": sum(q * math.log(q / (0.1 * q + 0.45)) for q in t),
        "skew-rkl": sum(0.5 * math.log(0.5 / (0.05 + 0.9 * q)) for q in t),
        "tv": 0.25,
        "chi2": sum((0.5 - q) ** 2 / q for q in t),
    }
    for name in NAMES:
        d = value(name, "gaussian", student(0.2, 0.1, p=0.5), of_kind("gaussian", 0.2, 0.1, p=0.75))
        assert d.item() == pytest.approx(expected[name], abs=2e-4), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gaussian", "bins", "samples"])
def test_finite_and_bounded_at_any_distance(name: str, kind: str) -> None:
    for mean, std in ((0.9, 0.02), (-1.5, 0.02), (30.0, 0.5), (0.3, 5.0)):
        s = student(mean, std)
        d = value(name, kind, s, of_kind(kind, -0.5, 0.1))
        d.sum().backward()
        assert torch.isfinite(d).all() and torch.isfinite(s.raw.grad).all() and torch.isfinite(s.log_std.grad).all()
        if name in BOUND and abs(mean) < 1 and kind != "samples":  # an estimate from a few actions may be larger
            assert d.item() <= BOUND[name] + 1e-4
        if abs(mean) > 1 and kind != "samples":  # beyond the range: pulled back
            assert s.raw.grad[0, 0] * mean > 0


@pytest.mark.parametrize("kind", ["gaussian", "bins"])
def test_gradient_pulls_towards_an_overlapping_teacher(kind: str) -> None:
    for name in NAMES:
        s = student(0.2, 0.2)
        value(name, kind, s, of_kind(kind, 0.0, 0.1)).sum().backward()
        assert s.raw.grad[0, 0] > 0, name


def test_jsd_tends_to_either_kl() -> None:
    s, t = student(0.1, 0.15), of_kind("gaussian", 0.0, 0.12)
    forward = math.log(0.15 / 0.12) + (0.12**2 + 0.1**2) / (2 * 0.15**2) - 0.5
    reverse = math.log(0.12 / 0.15) + (0.15**2 + 0.1**2) / (2 * 0.12**2) - 0.5
    small, large = (CONFIG.model_copy(update={"jsd_beta": b}) for b in (1e-3, 1 - 1e-3))
    assert value("jsd", "gaussian", s, t, small).item() / 1e-3 == pytest.approx(forward, rel=0.02)
    assert value("jsd", "gaussian", s, t, large).item() / 1e-3 == pytest.approx(reverse, rel=0.02)
