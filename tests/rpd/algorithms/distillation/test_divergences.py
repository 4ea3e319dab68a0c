"""Divergences from a mean and a std against torch.distributions, and what every one of them must satisfy.

Those from bins: test_binned.py; from samples: test_kernel_density.py; f-divergences, rank and gap have files of their own.
"""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from rpd.algorithms.distillation.divergences import DIVERGENCES, MIN_PROB, SOFT_CLIP
from rpd.cli.main import main
from rpd.config.divergences import divergence_names
from rpd.config.schema import DistillConfig
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = torch.tensor([False, False, True])
LOGIT = math.log(0.8 / 0.2)  # of the teacher's gripper
CONFIG = DistillConfig(min_teacher_std=0.05, kde_bandwidth=0.05, bin_tail_std=0.05, detach_std=False)
VARIANTS = {n: v for n in ("mse", "l1", "huber", "nll", "fkl", "rkl") for v in DIVERGENCES[n] if v.needs <= {"mean", "std"}}
ALL = sorted(VARIANTS)
PROPER = sorted(set(ALL) - {"nll"})  # nll is a likelihood: smallest, but not zero, where equal


def student(mean=(0.3, -0.2), std=(0.5, 0.25), logit=0.7, n=1) -> ActionDistribution:
    raw = torch.tensor([[*mean, logit]]).repeat(n, 1).requires_grad_()
    log_std = torch.tensor([*std, 1.0]).log().requires_grad_()
    return ActionDistribution(raw, log_std, DISCRETE)


def teacher(mean=(0.1, 0.4), std=(0.2, 0.3), p=0.8) -> dict[str, torch.Tensor]:
    # what a teacher leaves in the std of a discrete dimension must not matter, NaN included
    return {"mean": torch.tensor([[*mean, 2 * p - 1]]), "std": torch.tensor([[*std, math.nan]])}


def value(name: str, s: ActionDistribution, t: dict[str, torch.Tensor], config: DistillConfig = CONFIG) -> torch.Tensor:
    return VARIANTS[name].fn(s, t, config)


def gripper_kl(p: float, logit: float) -> float:
    return kl_divergence(Bernoulli(torch.tensor(p)), Bernoulli(logits=torch.tensor(logit))).item()


def test_point_divergences_by_hand() -> None:
    # gaps 0.2 and -0.6
    kl = gripper_kl(0.8, 0.7)
    assert value("mse", student(), teacher()).item() == pytest.approx(0.04 + 0.36 + kl, rel=1e-5)
    assert value("l1", student(), teacher()).item() == pytest.approx(0.2 + 0.6 + kl, rel=1e-5)
    # huber, c = 0.1: 0.2 |x| - 0.01, so 0.03 and 0.11
    assert value("huber", student(), teacher()).item() == pytest.approx(0.03 + 0.11 + kl, rel=1e-5)
    assert value("huber", student(mean=(0.15, 0.4)), teacher()).item() == pytest.approx(0.0025 + kl, rel=1e-4)


def test_gripper_by_hand() -> None:
    # equal arms; p_S = 1/2, p_T = 3/4: KL(T||S) = 3/4 ln(3/2) + 1/4 ln(1/2), KL(S||T) = 1/2 ln(2/3) + 1/2 ln 2
    s, t = student(mean=(0.1, 0.4), std=(0.2, 0.3), logit=0.0), teacher(p=0.75)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for name in ("mse", "l1", "huber", "fkl"):
        assert value(name, s, t).item() == pytest.approx(forward, abs=1e-6), name
    assert value("rkl", s, t).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), abs=1e-6)


def test_likelihood_divergences_match_torch() -> None:
    s, t = student(), teacher()
    ours, theirs = Normal(s.mean[:, :2], s.std[:, :2]), Normal(t["mean"][:, :2], t["std"][:, :2])
    grip_s, grip_t = Bernoulli(logits=torch.tensor(0.7)), Bernoulli(torch.tensor(0.8))
    forward = kl_divergence(theirs, ours).sum() + kl_divergence(grip_t, grip_s)
    reverse = kl_divergence(ours, theirs).sum() + kl_divergence(grip_s, grip_t)
    expected_log = 0.8 * grip_s.log_prob(torch.tensor(1.0)) + 0.2 * grip_s.log_prob(torch.tensor(0.0))
    torch.testing.assert_close(value("fkl", s, t)[0], forward)
    torch.testing.assert_close(value("rkl", s, t)[0], reverse)
    torch.testing.assert_close(value("nll", s, t)[0], -ours.log_prob(t["mean"][:, :2]).sum() - expected_log)


def test_nll_is_the_students_own_log_density() -> None:
    for p in (0.0, 1.0):  # a teacher that is sure of its gripper
        t = teacher(p=p)
        torch.testing.assert_close(value("nll", student(), t), -student().log_prob(t["mean"]))


@pytest.mark.parametrize("name", PROPER)
def test_zero_iff_equal(name: str) -> None:
    equal = student(mean=(0.1, 0.4), std=(0.2, 0.3), logit=math.log(0.8 / 0.2))
    assert value(name, equal, teacher()).item() == pytest.approx(0, abs=1e-6)
    different = [{"mean": (0.15, 0.4)}, {"mean": (0.1, 0.3)}, {"logit": 1.0}, {"logit": 2.0}]
    if "std" in VARIANTS[name].needs:
        different += [{"std": (0.25, 0.3)}, {"std": (0.2, 0.2)}]
    for change in different:
        other = student(**{"mean": (0.1, 0.4), "std": (0.2, 0.3), "logit": math.log(0.8 / 0.2)} | change)
        assert value(name, other, teacher()).item() > 1e-4, change


@pytest.mark.parametrize("name", ALL)
def test_smallest_where_the_mean_is_the_teachers(name: str) -> None:
    best = value(name, student(mean=(0.1, 0.4), logit=math.log(4)), teacher()).item()
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y, logit = torch.randn(3, generator=g).tolist()
        assert value(name, student(mean=(x, y), logit=logit), teacher()).item() > best


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_pull_towards_the_teacher(name: str) -> None:
    for std in (0.02, 0.5):
        for sure in (0.0, 1.0):
            for logit in (-60.0, -3.0, 60.0):
                s = student(mean=(1.0, -1.0), std=(std, std), logit=logit)
                t = teacher(mean=(-1.0, 1.0), std=(0.0, 0.0), p=sure)
                d = value(name, s, t)
                d.sum().backward()
                assert torch.isfinite(d).all()
                assert torch.isfinite(s.raw.grad).all()
                assert s.log_std.grad is None or torch.isfinite(s.log_std.grad).all()
                gx, gy, grip = s.raw.grad[0].tolist()
                # still a pull at 100 sigma, where a hard clip would have none; and not an explosion
                assert 0.1 < gx < 1e3 and -1e3 < gy < -0.1
                assert abs(grip) <= (3.0 if name == "rkl" else 1.0)


def test_std_has_a_gradient_unless_detached() -> None:
    for name in ALL:
        for detach in (True, False):
            s = student()
            value(name, s, teacher(), CONFIG.model_copy(update={"detach_std": detach})).sum().backward()
            moved = s.log_std.grad is not None and bool(s.log_std.grad[:2].abs().max() > 0)
            assert moved == (name in ("nll", "fkl", "rkl") and not detach), (name, detach)


def test_teacher_std_is_floored() -> None:
    config = DistillConfig(min_teacher_std=0.2, kde_bandwidth=0.2, bin_tail_std=0.2)
    for name in ("fkl", "rkl"):
        torch.testing.assert_close(
            value(name, student(), teacher(std=(0.0, 0.1)), config), value(name, student(), teacher(std=(0.2, 0.2)), config)
        )


def test_soft_clip_continues_smoothly_and_keeps_rising() -> None:
    # rkl with s = sigma = 0.2 is gap² / 0.08 per dimension: 10 nats at gap = sqrt(0.8)
    edge = math.sqrt(0.8)

    def at(gap: float) -> tuple[float, float]:
        s = student(mean=(gap, 0.0), std=(0.2, 0.2), logit=0.0)
        d = value("rkl", s, teacher(mean=(0.0, 0.0), std=(0.2, 0.2), p=0.5))
        d.sum().backward()
        return d.item(), s.raw.grad[0, 0].item()

    assert at(edge)[0] == pytest.approx(SOFT_CLIP, rel=1e-5)
    assert at(edge * 0.999)[1] == pytest.approx(at(edge * 1.001)[1], rel=1e-2)
    assert at(2 * edge)[0] == pytest.approx(SOFT_CLIP * (1 + math.log(4)), rel=1e-5)
    assert at(2 * edge)[1] == pytest.approx(2 * SOFT_CLIP / (2 * edge), rel=1e-5)


def test_reverse_gripper_is_bounded_by_the_floor() -> None:
    s = student(mean=(0.0, 0.0), std=(0.2, 0.2), logit=-100.0)
    d = value("rkl", s, teacher(mean=(0.0, 0.0), std=(0.2, 0.2), p=1.0))
    assert d.item() == pytest.approx(-math.log(MIN_PROB), rel=1e-4)


def test_neighborhood_is_the_reverse_kl_to_a_gaussian_of_fixed_width() -> None:
    # KL(N(0.3, 0.5²) || N(0.1, 0.05²)) grows softly above 10 nats; the same width and place: 0
    (variant,) = DIVERGENCES["neighborhood"]
    s = student(mean=(0.1, 0.5), std=(0.05, 0.05), logit=math.log(4))
    gap = 0.5 * (0.1 / 0.05) ** 2
    d = variant.fn(s, teacher(), CONFIG.model_copy(update={"detach_std": True}))
    assert d.item() == pytest.approx(gap, rel=1e-5)
    d.sum().backward()
    assert s.log_std.grad[:2].abs().max() < 1e-5  # the right width
    wide = student(mean=(0.1, 0.4), std=(0.1, 0.05), logit=math.log(4))
    d = variant.fn(wide, teacher(), CONFIG.model_copy(update={"detach_std": True}))
    assert d.item() == pytest.approx(math.log(0.5) + 4 / 2 - 0.5, rel=1e-5)
    d.sum().backward()
    assert wide.log_std.grad[0] > 0  # narrower, although detach_std is set


def test_direction_by_hand() -> None:
    (variant,) = DIVERGENCES["direction"]

    def at(mean, target, p=0.8, logit=LOGIT) -> float:
        return variant.fn(student(mean=mean, logit=logit), teacher(mean=target, p=p), CONFIG).item()

    assert at((0.3, 0.3), (0.1, 0.1)) == pytest.approx(0, abs=1e-6)  # any length
    assert at((0.3, 0.0), (0.3, 0.3)) == pytest.approx(1 - math.sqrt(0.5), rel=1e-5)
    assert at((0.3, 0.0), (-0.1, 0.0)) == pytest.approx(2, rel=1e-5)
    assert at((0.3, 0.0), (0.0, 0.0)) == pytest.approx(0, abs=1e-6)  # the teacher stands still
    assert at((0.3, 0.0), (-0.025, 0.0)) == pytest.approx(1, rel=1e-5)  # half as fast as counts in full
    assert at((0.3, 0.3), (0.1, 0.1), logit=0.7) == pytest.approx(gripper_kl(0.8, 0.7), rel=1e-4)
    still = student(mean=(0.0, 0.0))
    variant.fn(still, teacher(mean=(0.2, -0.2)), CONFIG).sum().backward()
    gx, gy = still.raw.grad[0, :2].tolist()
    assert gx < -1 and gy > 1  # a student at rest starts moving


def test_rows_are_independent() -> None:
    two = {k: torch.cat([v, v + 0.1]) for k, v in teacher().items()}
    for name in ALL:
        d = value(name, student(n=2), two)
        assert d.shape == (2,)
        torch.testing.assert_close(d[:1], value(name, student(), teacher()))


def test_names_are_those_of_the_configuration() -> None:
    assert divergence_names() == list(DIVERGENCES) and all(DIVERGENCES.values())
    with pytest.raises(ConfigError, match=r"unknown divergence 'nl': did you mean nll"):
        DistillConfig(divergence="nl")


def test_own_divergence_is_an_option(tmp_path, monkeypatch, capsys) -> None:
    example = re.search(
        r"### A divergence.*?```python\n(.*?)```", (Path(__file__).parents[4] / "docs/architecture.md").read_text(), re.DOTALL
    )
    (tmp_path / "mine.py").write_text(example[1])
    started = []
    monkeypatch.setattr(user_files, "_loaded", [])
    monkeypatch.setenv(user_files.VARIABLE, "")  # restored, so that later tests do not import the file
    monkeypatch.setattr("rpd.cli.train.start", lambda config, *_: started.append(config.distill.divergence) or 0)
    words = ["train", "tabletop/Reach", "--teacher", "scripted", "--import", str(tmp_path / "mine.py")]
    try:
        assert main([*words, "--distill.divergence", "hellinger"]) == 0 and started == ["hellinger"]
        assert main([*words, "--distill", "helinger"]) == 2
        assert "unknown divergence 'helinger': did you mean hellinger" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "adpo, trrd, hellinger; default: nll" in text
    finally:
        DIVERGENCES.pop("hellinger", None)
        sys.modules.pop("mine", None)
