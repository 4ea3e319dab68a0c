"""ADPO: the list-wise KL by hand, and what is refused."""

import math

import pytest
import torch

from rpd.algorithms.distillation import DistillObjective
from rpd.algorithms.distillation.listwise import adpo
from rpd.algorithms.distillation.opd import advantages
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

CONFIG = DistillConfig(opd_clip=100.0)


def test_by_hand() -> None:
    # one dimension, a student that has not moved: p = 1/2 each; gains 1 and -1: q = e / (e + 1/e)
    student = ActionDistribution(torch.zeros(1, 1, requires_grad=True), torch.zeros(1), torch.tensor([False]))
    actions, gain = torch.tensor([[[0.5]], [[-0.5]]]), torch.tensor([[[1.0]], [[-1.0]]])
    behavior = student.log_prob_per_dim(actions).detach()
    advantage = advantages(gain, torch.ones(1, dtype=torch.bool), 100.0)
    each = {"actions": actions, "log_behavior": behavior, "advantages": advantage}
    targets = {name: value.transpose(0, 1) for name, value in each.items()}
    q = math.e / (math.e + 1 / math.e)
    d = adpo(student, targets, CONFIG)
    assert d.item() == pytest.approx(q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q)), rel=1e-5)
    d.sum().backward()
    assert student.raw.grad.item() == pytest.approx(-(q - 0.5), rel=1e-5)  # d log p = a - mean a, a = +-1/2, for sigma = 1
    # log p_1 - log p_2 = mu: it is zero at mu = 2
    there = ActionDistribution(torch.full((1, 1), 2.0), torch.zeros(1), torch.tensor([False]))
    assert adpo(there, targets, CONFIG).item() == pytest.approx(0, abs=1e-6)


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"adpo compares several actions: distill.opd_samples has to be 2 or more"):
        DistillObjective(DistillConfig(divergence="adpo", opd_samples=1), "x", {"mean", "std"}, (False,))
