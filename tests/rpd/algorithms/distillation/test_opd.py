"""The score-function form of the reverse KL: by hand, and that its means are the divergence and its gradient."""

import math

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms.distillation import binned, kernel_density, opd
from rpd.algorithms.distillation.divergences import DIVERGENCES, MIN_PROB, rkl, rkl_bins
from rpd.algorithms.distillation.opd import score_bins, score_gaussian, score_of_teacher, score_samples
from rpd.config.schema import DistillConfig
from rpd.students.networks.distribution import ActionDistribution
from rpd.students.row_share import RowShare

DISCRETE = torch.tensor([False, False, True])
CONFIG = DistillConfig(min_teacher_std=0.2, kde_bandwidth=0.2, bin_tail_std=0.2)


def test_leave_one_out_by_hand() -> None:
    # gains of three actions in two dimensions; the second row is not labelled
    gain = torch.tensor([[[1.0, 0.0], [math.nan] * 2], [[3.0, 0.0], [math.nan] * 2], [[-4.0, 30.0], [math.nan] * 2]])
    valid = torch.tensor([True, False])
    advantage = opd.advantages(gain, valid, 10.0)
    # 1 - (3 - 4) / 2, 3 - (1 - 4) / 2, -4 - (1 + 3) / 2; 0 - 15, 0 - 15, 30 - 0, clipped
    assert advantage[:, 0].tolist() == [[1.5, -10.0], [4.5, -10.0], [-6.0, 10.0]]
    assert advantage[:, 1].tolist() == [[0.0, 0.0]] * 3
    assert opd.divergence(gain, valid).item() == -10.0  # (0 + 30) / 3


def test_one_action_is_compared_with_the_batch() -> None:
    gain = torch.tensor([[[1.0, 5.0], [3.0, 7.0], [9.0, 9.0]]])
    advantage = opd.advantages(gain, torch.tensor([True, True, False]), 10.0)
    assert advantage.tolist() == [[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]]
    nothing = opd.advantages(gain, torch.zeros(3, dtype=torch.bool), 10.0)
    assert nothing.eq(0).all() and opd.divergence(gain, torch.zeros(3, dtype=torch.bool)) == 0


def test_loss_by_hand() -> None:
    """-min(r, 5) A per dimension: half as likely, twice as likely, and far beyond the cap."""
    student = ActionDistribution(torch.zeros(1, 3, requires_grad=True), torch.zeros(3), DISCRETE)
    actions = torch.zeros(1, 1, 3)
    now = student.log_prob_per_dim(actions).detach()
    behavior = now - torch.tensor([0.5, 2.0, 1e30]).log()
    targets = {"actions": actions, "log_behavior": behavior, "advantages": torch.tensor([[[1.0, -2.0, 3.0]]])}
    loss = opd.loss(student, targets, CONFIG)
    assert loss.tolist() == pytest.approx([-(0.5 * 1 - 2 * 2 + opd.MAX_RATIO * 3)])
    loss.sum().backward()
    assert student.raw.grad.isfinite().all() and student.raw.grad[0, 2] == 0


def student(mean=(0.3, -0.2), std=(0.2, 0.15), logit=0.7, n=100_000) -> ActionDistribution:
    return ActionDistribution(torch.tensor([[*mean, logit]]).expand(n, 3), torch.tensor([*std, 1.0]).log(), DISCRETE)


def bimodal_and_broad() -> torch.Tensor:
    """Log-probabilities [1, 3, 255]."""
    middle = torch.linspace(-1 + 1 / 255, 1 - 1 / 255, 255)
    modes = torch.logaddexp(-0.5 * ((middle - 0.4) / 0.1).square(), -0.5 * ((middle + 0.3) / 0.05).square())
    broad = -0.5 * ((middle + 0.1) / 0.3).square()
    return torch.stack([modes, broad, broad])[None].log_softmax(-1)


@pytest.mark.parametrize("what", ["bins", "gaussian"])
def test_mean_of_minus_the_gain_is_the_reverse_kl(what: str) -> None:
    """-E_{a ~ S}[sum_d log pi_T(a_d) - log pi_S(a_d)] = KL(S || T), by sampling, to 5 standard errors."""
    s = student()
    action = s.sample(torch.Generator().manual_seed(0))
    teacher = {"mean": torch.tensor([[0.1, -0.1, 0.6]]), "std": torch.tensor([[0.3, 0.25, math.nan]])}
    if what == "gaussian":
        log_teacher, exact = score_gaussian(action, DISCRETE, teacher, CONFIG), rkl(student(n=1), teacher, CONFIG)
    else:
        edges = torch.linspace(-1, 1, 256).expand(3, -1)
        log_mass = binned.blur(bimodal_and_broad(), binned.blur_operator(edges, 0.03), 1e-3)
        log_teacher = score_bins(action, DISCRETE, teacher | {"log_mass": log_mass.expand(len(action), -1, -1)}, CONFIG)
        exact = rkl_bins(student(n=1), teacher | binned.steps(log_mass), CONFIG)
    gain = (log_teacher - s.log_prob_per_dim(action))[None]
    error = gain.sum(-1).std().item() / math.sqrt(len(action))
    kl = opd.divergence(gain, torch.ones(len(action), dtype=torch.bool))
    assert kl.item() == pytest.approx(exact.item(), abs=5 * error + 2e-3)


def test_gradient_is_that_of_the_reverse_kl() -> None:
    """Averaged over many draws, the gradient of L at the behaviour policy is that of KL(S || T) in closed form."""
    teacher = {"mean": torch.tensor([[0.1, -0.1, 0.6]]), "std": torch.tensor([[0.3, 0.25, math.nan]])}
    n, config = 40_000, DistillConfig(min_teacher_std=0.2, detach_std=False, opd_clip=1e9)
    closed, sampled = student(n=1), student(n=n)
    exact = torch.autograd.grad(rkl(_leaf(closed), teacher, config).sum(), _parts(closed))
    torch.manual_seed(0)
    fields = {name: value.expand(n, -1) for name, value in teacher.items()} | {"valid": torch.ones(n, dtype=torch.bool)}
    behavior = {"raw": sampled.raw, "log_std": sampled.log_std.expand(n, -1)}
    (gaussian,) = [v for v in DIVERGENCES["opd"] if v.score is score_gaussian]
    targets, _ = opd.targets_of(TensorDict({"behavior": behavior}, [n]), fields, gaussian, DISCRETE, config)
    found = torch.autograd.grad(opd.loss(_leaf(sampled), targets, config).mean(), _parts(sampled))
    torch.testing.assert_close(found[0].sum(0), exact[0][0], atol=0.02, rtol=0.02)
    torch.testing.assert_close(found[1][:2], exact[1][:2], atol=0.02, rtol=0.02)


def _leaf(student: ActionDistribution) -> ActionDistribution:
    for part in _parts(student):
        part.requires_grad_()
    return student


def _parts(student: ActionDistribution) -> list[torch.Tensor]:
    return [student.raw, student.log_std]


def test_samples_are_scored_given_the_other_dimensions() -> None:
    """Log q(a) - log q(a without d), both by the joint density."""
    samples = torch.tensor([[[0.4, -0.2, 1.0], [-0.3, 0.0, 1.0], [0.2, -0.3, -1.0]]])
    action = torch.tensor([[0.1, -0.1, 1.0]])
    teacher = {"mean": torch.tensor([[0.0, 0.0, 0.6]]), "samples": samples}
    found = score_samples(action, DISCRETE, teacher, CONFIG)
    continuous = ~DISCRETE
    joint = kernel_density.log_density(action, samples, continuous, 0.2)
    for d in range(2):
        others = continuous.clone()
        others[d] = False
        torch.testing.assert_close(found[:, d], joint - kernel_density.log_density(action, samples, others, 0.2))
    assert found[0, 2].item() == pytest.approx(math.log(0.8))
    assert score_samples(action.expand(4, 1, 3), DISCRETE, teacher, CONFIG).shape == (4, 1, 3)


def test_gripper_counts_with_the_probability_of_its_sign() -> None:
    teacher = {"mean": torch.tensor([[0.0, 0.0, 0.6]]), "std": torch.ones(1, 3)}  # p = 0.8
    action = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    opens, closes = score_gaussian(action, DISCRETE, teacher, CONFIG)[:, 2].tolist()
    assert opens - closes == pytest.approx(math.log(0.8 / 0.2))
    opens, closes = score_gaussian(action, DISCRETE, teacher | {"mean": torch.ones(1, 3)}, CONFIG)[:, 2].tolist()
    assert opens - closes == pytest.approx(math.log((1 - MIN_PROB) / MIN_PROB))  # a sure teacher is not infinitely sure


def test_score_decreases_beyond_the_bins() -> None:
    action = torch.tensor([[0.3, -0.5, 5.0], [1.2, -0.5, 5.0], [0.3, -0.9, -5.0]])
    given = {"log_prob": torch.arange(9.0).view(3, 3)}
    assert torch.equal(score_of_teacher(action, DISCRETE, given, CONFIG), given["log_prob"])  # a density of its own
    edges = torch.stack([torch.linspace(-1, 1, 5), torch.linspace(-0.5, 0.5, 5), torch.linspace(-1, 1, 5)])
    # 0.2 beyond, and 0.4: 1/2 (0.2 / 0.2)² and 1/2 (0.4 / 0.2)²; a gripper has no beyond
    lost = given["log_prob"] - score_of_teacher(action, DISCRETE, given | {"bin_edges": edges}, CONFIG)
    torch.testing.assert_close(lost, torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 2.0, 0.0]]))


def test_distributions_are_preferred_to_the_score_of_one_action() -> None:
    assert [variant.score for variant in DIVERGENCES["opd"]] == [score_bins, score_samples, score_gaussian, score_of_teacher]
    assert DIVERGENCES["opd"][-1].needs == {"log_prob"}  # and nothing else: a teacher may save itself its own action


def test_actions_of_an_environment_do_not_depend_on_the_number_of_processes() -> None:
    """Two steps of four environments, drawn by one process and by two."""
    raw = torch.arange(24.0).view(8, 3)
    whole = ActionDistribution(raw, torch.zeros(8, 3), DISCRETE)
    drawn = opd.draw_actions(whole, 5, 4, torch.Generator().manual_seed(0), RowShare(0, 4, 4)).unflatten(1, (2, 4))
    for first in (0, 2):
        mine = ActionDistribution(raw.view(2, 4, 3)[:, first : first + 2].reshape(4, 3), torch.zeros(4, 3), DISCRETE)
        part = opd.draw_actions(mine, 5, 2, torch.Generator().manual_seed(0), RowShare(first, 2, 4))
        torch.testing.assert_close(part.unflatten(1, (2, 2)), drawn[:, :, first : first + 2])
    assert (drawn[..., :2].mean(0) - raw[:, :2].view(2, 4, 2)).abs().max() < 2.5  # around the means
