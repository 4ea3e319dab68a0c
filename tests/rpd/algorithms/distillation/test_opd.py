"""What a teacher's log-probability of the student's action becomes: by hand, and that its mean is the reverse KL."""

import math

import pytest
import torch

from rpd.algorithms.distillation import binned, kernel_density
from rpd.algorithms.distillation.divergences import MIN_PROB, rkl, rkl_bins, rkl_samples
from rpd.algorithms.distillation.opd import (
    LOG_PROB_ESTIMATORS,
    binned_log_prob,
    gaussian_log_prob,
    kernel_log_prob,
    opd_advantage,
    reported_log_prob,
)
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = torch.tensor([False, False, True])
CONFIG = DistillConfig(min_teacher_std=0.2, kde_bandwidth=0.2, bin_tail_std=0.2)


def test_advantage_by_hand() -> None:
    log_teacher, log_student = torch.tensor([2.0, -1.0, 5.0, math.nan]), torch.tensor([1.0, 1.0, -5.0, 0.0])
    valid = torch.tensor([True, True, True, False])
    # x = 1, -2, 10; their mean 3
    advantage, kl = opd_advantage(log_teacher, log_student, valid, 5.0)
    assert advantage.tolist() == [-2.0, -5.0, 5.0, 0.0] and kl.item() == -3.0
    nothing, kl = opd_advantage(log_teacher, log_student, torch.zeros(4, dtype=torch.bool), 5.0)
    assert nothing.tolist() == [0.0] * 4 and kl.item() == 0.0


def test_likelier_action_has_larger_advantage_at_any_distance() -> None:
    student = ActionDistribution(torch.tensor([[-0.8, 0.0, 3.0]]).expand(3, 3), torch.full((3,), -1.6), DISCRETE)
    action = torch.tensor([[-0.9, 0.0, 1.0], [-0.8, 0.0, 1.0], [-0.7, 0.0, 1.0]])
    teacher = {"mean": torch.tensor([[0.9, 0.0, 1.0]]), "std": torch.full((1, 3), 0.01)}
    log_teacher = gaussian_log_prob(action, DISCRETE, teacher, CONFIG)
    assert (log_teacher - student.log_prob(action) < -CONFIG.opd_clip).all()  # raw, all of them would be clipped alike
    below, same, above = opd_advantage(log_teacher, student.log_prob(action), torch.ones(3).bool(), CONFIG.opd_clip)[0].tolist()
    assert below < same < above and below < 0 < above


def student(mean=(0.3, -0.2), std=(0.2, 0.15), logit=0.7, n=100_000) -> ActionDistribution:
    return ActionDistribution(torch.tensor([[*mean, logit]]).expand(n, 3), torch.tensor([*std, 1.0]).log(), DISCRETE)


def bimodal_and_broad() -> torch.Tensor:
    """Log-probabilities [1, 3, 255]."""
    middle = torch.linspace(-1 + 1 / 255, 1 - 1 / 255, 255)
    modes = torch.logaddexp(-0.5 * ((middle - 0.4) / 0.1).square(), -0.5 * ((middle + 0.3) / 0.05).square())
    broad = -0.5 * ((middle + 0.1) / 0.3).square()
    return torch.stack([modes, broad, broad])[None].log_softmax(-1)


@pytest.mark.parametrize("what", ["bins", "samples", "gaussian"])
def test_mean_of_minus_the_gain_is_the_reverse_kl(what: str, monkeypatch) -> None:
    """-E_{a ~ S}[log pi_T(a) - log pi_S(a)] = KL(S || T), by sampling, to 5 standard errors."""
    config, s = DistillConfig(min_teacher_std=0.2, kde_bandwidth=0.2, bin_tail_std=0.2), student()
    action = s.sample(torch.Generator().manual_seed(0))
    teacher = {"mean": torch.tensor([[0.1, -0.1, 0.6]]), "std": torch.tensor([[0.3, 0.25, math.nan]])}
    if what == "gaussian":
        log_teacher, exact = gaussian_log_prob(action, DISCRETE, teacher, config), rkl(student(n=1), teacher, config)
    elif what == "samples":
        monkeypatch.setattr(kernel_density, "DRAWS", 1_000_000)
        torch.manual_seed(0)
        teacher["samples"] = torch.tensor([[[0.4, -0.2, 1.0], [-0.3, 0.0, 1.0], [0.2, -0.3, -1.0]]])
        log_teacher, exact = kernel_log_prob(action, DISCRETE, teacher, config), rkl_samples(student(n=1), teacher, config)
    else:
        edges = torch.linspace(-1, 1, 256).expand(3, -1)
        log_mass = binned.blur(bimodal_and_broad(), binned.blur_operator(edges, 0.03), 1e-3)
        log_teacher = binned_log_prob(action, DISCRETE, teacher | {"log_mass": log_mass.expand(len(action), -1, -1)}, config)
        exact = rkl_bins(student(n=1), teacher | binned.steps(log_mass), config)
    gain = log_teacher - s.log_prob(action)
    error = gain.std().item() / math.sqrt(len(action))
    assert -gain.mean().item() == pytest.approx(exact.item(), abs=5 * error + 2e-3)
    assert opd_advantage(log_teacher, s.log_prob(action), torch.ones_like(gain, dtype=torch.bool), 10.0)[1] == -gain.mean()


def test_gripper_counts_with_the_probability_of_its_sign() -> None:
    teacher = {"mean": torch.tensor([[0.0, 0.0, 0.6]]), "std": torch.ones(1, 3)}  # p = 0.8
    action = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    opens, closes = gaussian_log_prob(action, DISCRETE, teacher, CONFIG).tolist()
    assert opens - closes == pytest.approx(math.log(0.8 / 0.2))
    opens, closes = gaussian_log_prob(action, DISCRETE, teacher | {"mean": torch.ones(1, 3)}, CONFIG).tolist()
    assert opens - closes == pytest.approx(math.log((1 - MIN_PROB) / MIN_PROB))  # a sure teacher is not infinitely sure


def test_score_decreases_beyond_the_bins() -> None:
    action = torch.tensor([[0.3, -0.5, 5.0], [1.2, -0.5, 5.0], [0.3, -0.9, -5.0]])
    says = {"log_prob": torch.tensor([1.0, 2.0, 3.0])}
    assert reported_log_prob(action, DISCRETE, says, CONFIG).tolist() == [1.0, 2.0, 3.0]  # a density of its own
    edges = torch.stack([torch.linspace(-1, 1, 5), torch.linspace(-0.5, 0.5, 5), torch.linspace(-1, 1, 5)])
    # 0.2 beyond, and 0.4: 1/2 (0.2 / 0.2)² and 1/2 (0.4 / 0.2)²; a gripper has no beyond
    assert reported_log_prob(action, DISCRETE, says | {"bin_edges": edges}, CONFIG).tolist() == pytest.approx([1.0, 1.5, 1.0])


def test_preferences() -> None:
    assert [variant.fn for variant in LOG_PROB_ESTIMATORS["opd"]] == [
        reported_log_prob,
        binned_log_prob,
        kernel_log_prob,
        gaussian_log_prob,
    ]
    assert LOG_PROB_ESTIMATORS["opd"][0].needs == {"log_prob"}  # and nothing else: a teacher may save itself its own action
