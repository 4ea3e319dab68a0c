import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from rpd.students.networks.distribution import ActionDistribution


def mixed(raw, log_std):
    """Two Gaussians and a gripper."""
    return ActionDistribution(torch.tensor(raw), torch.tensor(log_std), torch.tensor([False, False, True]))


def test_log_prob_and_entropy_by_hand():
    # N(0.5, 1) at 0.5, N(0, e^-1) at e^-1, and a gripper that opens with p = 0.75
    dist = mixed([[0.5, 0.0, math.log(3)]], [0.0, -1.0, 123.0])
    half_log_2pi = 0.5 * math.log(2 * math.pi)
    opens = -half_log_2pi + (-0.5 + 1 - half_log_2pi) + math.log(0.75)
    action = torch.tensor([[0.5, math.exp(-1), 1.0]])
    torch.testing.assert_close(dist.log_prob(action), torch.tensor([opens]))
    action[0, 2] = -1.0
    torch.testing.assert_close(dist.log_prob(action), torch.tensor([opens - math.log(3)]))
    gripper = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(dist.entropy(), torch.tensor([1 + 2 * half_log_2pi - 1 + gripper]))
    torch.testing.assert_close(dist.mean, torch.tensor([[0.5, 0.0, 0.5]]))  # 2 * 0.75 - 1


def test_agrees_with_torch():
    torch.manual_seed(0)
    raw, log_std = torch.randn(64, 3) * 3, torch.randn(64, 3)
    dist = ActionDistribution(raw, log_std, torch.tensor([True, False, True]))
    action = dist.sample()
    gaussian, gripper = Normal(raw[:, 1], log_std[:, 1].exp()), Bernoulli(logits=raw[:, [0, 2]])
    expected = gaussian.log_prob(action[:, 1]) + gripper.log_prob((action[:, [0, 2]] + 1) / 2).sum(-1)
    torch.testing.assert_close(dist.log_prob(action), expected)
    torch.testing.assert_close(dist.entropy(), gaussian.entropy() + gripper.entropy().sum(-1))


@pytest.mark.parametrize("discrete", [True, False])
def test_samples_have_the_right_moments(discrete):
    raw = torch.tensor([[1.0, -0.3]]).expand(200_000, 2)
    dist = ActionDistribution(raw, torch.tensor([-0.5, -1.0]), torch.tensor([discrete, discrete]))
    sample = dist.sample(torch.Generator().manual_seed(3))
    variance = 1 - dist.mean[0].square() if discrete else dist.std[0].square()
    torch.testing.assert_close(sample.mean(0), dist.mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(sample.var(0), variance, atol=0.01, rtol=0)
    if discrete:
        assert set(sample.unique().tolist()) == {-1.0, 1.0}


def test_mode_decides_the_gripper():
    mode = mixed([[2.0, -0.5, 0.0], [0.25, 0.0, -1e-6]], [0.0, 0.0, 0.0]).mode()
    assert mode.tolist() == [[2.0, -0.5, 1.0], [0.25, 0.0, -1.0]]


def test_extreme_logits_stay_finite():
    raw = torch.tensor([[0.0, 0.0, 1e4], [0.0, 0.0, -1e4]], requires_grad=True)
    dist = ActionDistribution(raw, torch.tensor([-4.0, -4.0, -4.0]), torch.tensor([False, False, True]))
    loss = dist.log_prob(torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, 1.0]])).sum() + dist.entropy().sum()
    loss.backward()
    assert loss.isfinite() and raw.grad.isfinite().all()


def test_same_generator_same_actions():
    dist = mixed([[0.0, 0.0, 0.0]], [0.0, 0.0, 0.0])
    first, second = (dist.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
