"""Divergences from samples: by hand, against Gaussians, where they could break down, and on a teacher with two modes."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from rpd.algorithms.distillation import kernel_density
from rpd.algorithms.distillation.divergences import (
    DIVERGENCES,
    DivergenceVariant,
    fkl,
    fkl_samples,
    mse,
    nearest,
    rkl,
    rkl_samples,
)
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = torch.tensor([False, False, True])
CONTINUOUS = ~DISCRETE
ALL = [nearest, fkl_samples, rkl_samples]
P = 0.8
LOGIT = math.log(P / (1 - P))


def student(mean=(0.3, -0.2), std=(0.5, 0.25), logit=LOGIT) -> ActionDistribution:
    raw = torch.tensor([[*mean, logit]]).requires_grad_()
    return ActionDistribution(raw, torch.tensor([*std, 1.0]).log().requires_grad_(), DISCRETE)


def teacher(*rows: tuple[float, float], p: float = P) -> dict[str, torch.Tensor]:
    """One observation's samples; what they say of the gripper must not matter, as its probability is in the mean."""
    drawn = torch.tensor([[[*row, 1.0] for row in rows]])
    return {"samples": drawn, "mean": drawn.mean(1).index_fill(1, torch.tensor([2]), 2 * p - 1)}


def config(std: float = 0.2, detach_std: bool = False) -> DistillConfig:
    return DistillConfig(min_teacher_std=std, kde_bandwidth=std, detach_std=detach_std)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def many_draws(monkeypatch):
    monkeypatch.setattr(kernel_density, "DRAWS", 200_000)


def test_they_come_after_bins_and_before_a_gaussian() -> None:
    for name, fn, gaussian in (("fkl", fkl_samples, fkl), ("rkl", rkl_samples, rkl)):
        assert [variant.fn for variant in DIVERGENCES[name]][1:] == [fn, gaussian]
    assert DIVERGENCES["nearest"] == [DivergenceVariant(nearest, frozenset({"samples", "mean"}))]


def test_density_by_hand() -> None:
    # h = 0.5, at (0, 0): squared distances 1 and 0.25, so exp(-2) and exp(-1/2)
    drawn = torch.tensor([[[1.0, 0.0, 9.0], [0.3, -0.4, -9.0]]])
    expected = math.log((math.exp(-2) + math.exp(-0.5)) / 2) - 2 * math.log(0.5) - math.log(2 * math.pi)
    density = kernel_density.log_density(torch.zeros(1, 3), drawn, CONTINUOUS, 0.5)
    assert density.tolist() == pytest.approx([expected])


def test_density_is_a_mixture_of_gaussians() -> None:
    drawn, action = torch.randn(4, 5, 3), torch.randn(6, 4, 3)
    kernels = Independent(Normal(drawn[..., :2], 0.3), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(4, 5)), kernels)
    torch.testing.assert_close(kernel_density.log_density(action, drawn, CONTINUOUS, 0.3), mixture.log_prob(action[..., :2]))


def test_nearest_by_hand() -> None:
    # from (0.3, -0.2): 0.04 + 0.01, and 0.01 + 0.25
    t = teacher((0.1, -0.1), (0.2, 0.3))
    s = student()
    d = nearest(s, t, config())
    assert d.item() == pytest.approx(0.05, abs=1e-6)
    d.sum().backward()
    assert s.raw.grad[0].tolist() == pytest.approx([0.4, -0.2, 0.0], abs=1e-6)


def test_nearest_of_one_is_mse() -> None:
    t = teacher((0.1, 0.4))
    torch.testing.assert_close(nearest(student(logit=0.3), t, config()), mse(student(logit=0.3), t, config()))


def test_nearest_takes_a_side_even_half_way() -> None:
    s = student(mean=(0.0, 0.0))
    nearest(s, teacher((-0.5, 0.0), (0.5, 0.0)), config()).sum().backward()
    assert abs(s.raw.grad[0, 0].item()) == pytest.approx(1.0)


def test_forward_kl_has_the_gradient_of_the_samples_likelihood() -> None:
    rows, narrow = [(0.1, 0.4), (-0.3, 0.2), (0.6, -0.1)], 1e-4
    s, other = student(), student()
    fkl_samples(s, teacher(*rows), config(narrow)).sum().backward()
    mine = Normal(other.mean[:, :2], other.std[:, :2])
    (-mine.log_prob(torch.tensor(rows)).sum(-1).mean()).backward()
    torch.testing.assert_close(s.raw.grad[:, :2], other.raw.grad[:, :2])
    torch.testing.assert_close(s.log_std.grad[:2], other.log_std.grad[:2])


def test_forward_kl_by_hand() -> None:
    # samples 0.5 and -0.1 in the first dimension: mean 0.2, variance 0.09 + 0.16 = 0.5²; h = 0.4 in the second
    t = teacher((0.5, 0.3), (-0.1, 0.3))
    expected = math.log(0.25 / 0.5) + (0.25 + 0.01) / (2 * 0.0625) - 0.5 + math.log(0.8 / 0.4) + (0.16 + 0.25) / 1.28 - 0.5
    assert fkl_samples(student(std=(0.25, 0.8)), t, config(0.4)).item() == pytest.approx(expected, rel=1e-5)


def test_one_sample_is_a_gaussian(many_draws) -> None:
    """With S = 1 the density is N(a, h²): what `fkl` and `rkl` make of a teacher that is sure of a."""
    t, c = teacher((0.1, 0.4)), config(0.3)
    gaussian = {"mean": t["mean"], "std": torch.zeros(1, 3)}
    torch.testing.assert_close(fkl_samples(student(logit=0.3), t, c), fkl(student(logit=0.3), gaussian, c))
    torch.testing.assert_close(rkl_samples(student(logit=0.3), t, c), rkl(student(logit=0.3), gaussian, c), rtol=5e-3, atol=0)


def test_gradient_for_one_sample_is_exact_for_any_draw() -> None:
    t, c = teacher((0.1, 0.4)), config(0.3)
    for seed in range(3):
        torch.manual_seed(seed)
        s, exact = student(std=(0.1, 0.2)), student(std=(0.1, 0.2))
        rkl_samples(s, t, c).sum().backward()
        rkl(exact, {"mean": t["mean"], "std": torch.zeros(1, 3)}, c).sum().backward()
        torch.testing.assert_close(s.raw.grad, exact.raw.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fn", ALL)
def test_zero_where_equal(fn) -> None:
    equal = student(mean=(0.1, 0.4), std=(0.3, 0.3))
    for t in (teacher((0.1, 0.4)), teacher((0.1, 0.4), (0.1, 0.4))):
        assert fn(equal, t, config(0.3)).item() == pytest.approx(0, abs=1e-5)
    for change in ({"mean": (0.2, 0.4)}, {"logit": LOGIT + 1}) + (() if fn is nearest else ({"std": (0.3, 0.2)},)):
        other = student(**{"mean": (0.1, 0.4), "std": (0.3, 0.3)} | change)
        assert fn(other, teacher((0.1, 0.4)), config(0.3)).item() > 5e-3, change


@pytest.mark.parametrize("fn", ALL)
def test_gripper_is_compared_by_its_probability(fn) -> None:
    mine, theirs = Bernoulli(logits=torch.tensor(0.3)), Bernoulli(torch.tensor(P))
    expected = kl_divergence(mine, theirs) if fn is rkl_samples else kl_divergence(theirs, mine)
    s = student(mean=(0.1, 0.4), std=(0.3, 0.3), logit=0.3)
    assert fn(s, teacher((0.1, 0.4)), config(0.3)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_reverse_kl_matches_an_integral(many_draws) -> None:
    rows, h = [(-0.3, 0.1), (0.4, -0.2), (0.5, 0.0)], 0.15
    axis = torch.linspace(-3, 3, 601)
    grid = torch.cartesian_prod(axis, axis)
    mine = Normal(torch.tensor([0.1, -0.1]), torch.tensor([0.3, 0.2])).log_prob(grid).sum(-1)
    theirs = (Normal(torch.tensor(rows)[:, None], h).log_prob(grid).sum(-1)).logsumexp(0) - math.log(3)
    exact = (mine.exp() * (mine - theirs)).sum().item() * (axis[1] - axis[0]).item() ** 2
    s = student(mean=(0.1, -0.1), std=(0.3, 0.2))
    assert rkl_samples(s, teacher(*rows), config(h)).item() == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("fn", ALL)
@pytest.mark.parametrize("std", [0.0184, 1.6])  # the smallest and the largest sigma of a student
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("h", [1e-3, 0.2])
def test_gradients_are_finite_and_pull_towards_the_samples(fn, std: float, count: int, h: float) -> None:
    for far in (1.0, 50.0):
        s = student(mean=(far, -far), std=(std, std), logit=-60.0)
        d = fn(s, teacher(*[(-1.0, 1.0)] * count, p=1.0), config(h))
        d.sum().backward()
        assert d.isfinite().all() and s.raw.grad.isfinite().all()
        assert s.log_std.grad is None or s.log_std.grad.isfinite().all()
        x, y, _ = s.raw.grad[0].tolist()
        assert 0.1 < x < 1e3 and -1e3 < y < -0.1


@pytest.mark.parametrize("fn", ALL)
def test_rows_are_independent_and_samples_have_no_order(fn) -> None:
    rows = torch.randn(2, 5, 3)
    mean = torch.zeros(2, 3)

    def at(drawn: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return fn(ActionDistribution(torch.zeros(2, 3), torch.zeros(3), DISCRETE), {"samples": drawn, "mean": mean}, config())

    before, after = at(rows), at(torch.stack([rows[0], rows[1] + 0.3]))
    assert before.shape == (2,) and before[0] == after[0] and before[1] != after[1]
    torch.testing.assert_close(at(rows.flip(1)), before)


def test_std_has_a_gradient_unless_detached() -> None:
    for fn in ALL:
        for detach in (True, False):
            s = student()
            fn(s, teacher((0.1, 0.4), (0.2, 0.2)), config(detach_std=detach)).sum().backward()
            moved = s.log_std.grad is not None and bool(s.log_std.grad[:2].abs().max() > 0)
            assert moved == (fn is not nearest and not detach), fn


def learn(fn, start: float) -> tuple[float, float]:
    """Train a Gaussian from N(start, 0.3²) on a teacher that goes to -0.6 or to +0.6, never between; its mean and sigma."""
    g = torch.Generator().manual_seed(1)
    raw = torch.tensor([[start, 0.0, LOGIT]], requires_grad=True)
    log_std = torch.tensor([math.log(0.3)] * 3, requires_grad=True)
    optimizer = torch.optim.Adam([raw, log_std], lr=0.01)
    for _ in range(400):
        side = torch.randint(0, 2, (32, 8, 1), generator=g) * 1.2 - 0.6
        drawn = torch.cat([side, torch.zeros(32, 8, 1), torch.ones(32, 8, 1)], -1)
        t = {"samples": drawn, "mean": drawn.mean(1).index_fill(1, torch.tensor([2]), 2 * P - 1)}
        optimizer.zero_grad()
        fn(ActionDistribution(raw.expand(32, 3), log_std, DISCRETE), t, config(0.1)).mean().backward()
        optimizer.step()
    return raw[0, 0].item(), log_std[0].exp().item()


@pytest.mark.slow
@pytest.mark.parametrize("start", [-0.1, 0.1])
def test_two_modes(start: float) -> None:
    """Reverse KL and the nearest sample settle in one mode; the mean, and forward KL, land between, where nobody goes."""
    side = math.copysign(0.6, start)
    mean, std = learn(rkl_samples, start)
    assert mean == pytest.approx(side, abs=0.05) and std == pytest.approx(0.1, abs=0.02)
    assert learn(nearest, start)[0] == pytest.approx(side, abs=0.05)
    assert learn(mse, start)[0] == pytest.approx(0.0, abs=0.05)
    mean, std = learn(fkl_samples, start)
    assert mean == pytest.approx(0.0, abs=0.05) and std == pytest.approx(math.sqrt(0.36 + 0.01), abs=0.05)


@pytest.mark.slow
def test_two_modes_from_half_way() -> None:
    """Not only where it starts nearer to one: what is drawn decides."""
    assert abs(learn(rkl_samples, 0.0)[0]) == pytest.approx(0.6, abs=0.05)


def test_mode_costs_the_others() -> None:
    """In one of two modes KL(S || T) is log 2, however far the other; between them it is many nats."""
    t = teacher((-0.6, 0.0), (0.6, 0.0))
    assert rkl_samples(student((0.6, 0.0), (0.1, 0.1)), t, config(0.1)).item() == pytest.approx(math.log(2), abs=1e-3)
    assert rkl_samples(student((0.0, 0.0), (0.1, 0.1)), t, config(0.1)).item() > 10
