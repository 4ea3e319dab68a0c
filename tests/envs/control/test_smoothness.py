"""Costs of motion that is not smooth: by hand, and in the reward."""

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.control.joint_limiter import JointLimits
from rpd.envs.control.smoothness import action_rate, jerk, withheld

LIMITS = JointLimits(*(np.array(x) for x in ([-9.0, -9.0], [9.0, 9.0], [1.0, 1.0], [2.0, 4.0])))


def test_action_rate_is_one_for_the_largest_change_and_ignores_the_gripper():
    before = np.array([[-1.0] * 7, [0, 0, 0, 0, 0, 0, -1.0], [0.0] * 7])
    command = np.array([[1.0] * 7, [0, 0, 0, 0, 0, 0, 1.0], [0.6, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(action_rate(command, before), [1, 0, 0.3**2 / 6])


def test_jerk_is_one_from_full_braking_to_full_acceleration():
    full = LIMITS.acceleration * 0.1  # change of the velocities in a period
    change, before = np.array([full, full, full]), np.array([-full, full, 0 * full])
    np.testing.assert_allclose(jerk(change, before, LIMITS, 0.1), [1, 0, 0.25])


def test_withheld_is_the_share_of_the_wanted_motion():
    before, wanted = np.zeros((4, 2)), np.array([[0.4, 0.3], [0.4, 0.3], [0.0, 0.0], [0.1, 0.0]])
    moved = np.array([[0.4, 0.3], [0.2, 0.15], [0.0, 0.0], [-0.2, 0.0]])
    np.testing.assert_allclose(withheld(wanted, moved, before), [0, 0.5, 0, 1])


@pytest.mark.parametrize("limits", ["published", "none"])
@pytest.mark.parametrize("cost", ["action_rate_cost", "jerk_cost", "limit_cost"])
def test_costs_are_subtracted_from_the_reward_and_change_nothing_else(cost, limits):
    steps, lost = {}, []
    for weight in (0.0, 0.5):
        config = EnvConfig(num_envs=3, limits=limits).model_copy(update={cost: weight})
        env = registry.make("tabletop/Reach", config, num_threads=1)
        env.reset(0)
        g = torch.Generator().manual_seed(0)
        steps[weight] = [env.step(2 * torch.rand(3, 7, generator=g) - 1) for _ in range(10)]
    for free, costly in zip(steps[0.0], steps[0.5], strict=True):
        assert torch.equal(free.obs["state"], costly.obs["state"])
        lost.append(free.reward - costly.reward)
    lost = torch.stack(lost)
    assert (lost >= -1e-6).all() and (lost <= 0.5 + 1e-6).all()
    costs = bool(lost.max() > 1e-3)
    assert costs or (limits == "none" and cost != "action_rate_cost")


def test_costs_are_of_one_episode():
    """The first command of an episode follows none: it costs the same as in the episode before."""
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=1, max_episode_steps=1, action_rate_cost=1.0, reward="sparse"))
    env.reset(0)
    rewards = [env.step(torch.full((1, 7), 0.5)).reward.item() for _ in range(3)]
    assert rewards == pytest.approx([-(0.25**2)] * 3)
