"""Generalized advantage estimation (GAE, arXiv 1506.02438)."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.config.schema import PPOConfig


def estimate(batch: TensorDict, last_value: Tensor, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages and returns of a batch, by the estimator that `config` names.

    Args:
        batch: [T, N] with ``reward``, ``value``, ``terminated``, ``truncated`` and ``final_value``, see `gae`.
        last_value: [N] value of the observation after the last step.
        config: discount, lambda and estimator.

    Returns:
        Advantages [T, N] and returns [T, N].
    """
    function = gae_finite_horizon if config.finite_horizon_gae else gae
    return function(
        batch["reward"], batch["value"], batch["terminated"], batch["truncated"], batch["final_value"], last_value,
        config.gamma, config.gae_lambda,
    )  # fmt: skip


def gae(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_value: Tensor,
    last_value: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation, with values bootstrapped through time-outs but not through terminations.

    Args:
        reward: [T, N] reward of step t.
        value: [T, N] V(o_t), o_t the observation before step t.
        terminated: [T, N] bool: the task ended at step t.
        truncated: [T, N] bool: the time limit ended the episode at step t.
        final_value: [T, N] value of the episode's true last observation where truncated; ignored elsewhere.
        last_value: [N] value of the observation after the last step.
        gamma: discount per step.
        lam: GAE's lambda.

    Returns:
        Advantages [T, N] and returns (targets of the value function) [T, N].
    """
    next_value, running = _successors(value, terminated, truncated, final_value, last_value)
    # delta_t = r_t + gamma V(o_{t+1}) - V(o_t)
    delta = reward + gamma * next_value - value
    advantage = torch.empty_like(delta)
    trace = torch.zeros_like(last_value)
    for t in reversed(range(reward.shape[0])):
        # A_t = delta_t + gamma lambda A_{t+1}, cut where an episode ended
        trace = delta[t] + gamma * lam * running[t] * trace
        advantage[t] = trace
    return advantage, advantage + value


def gae_finite_horizon(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_value: Tensor,
    last_value: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """The GAE variant of ManiSkill's PPO baseline (`finite_horizon_gae`); arguments and result as in `gae`.

    GAE averages the k-step returns G_k with weights (1 - lambda) lambda^(k-1), and gives all remaining weight to the last
    return, at the end of the rollout or episode. This variant averages only the H returns that exist:

        A_t = sum_{k=1..H} lambda^(k-1) G_k / sum_{k=1..H} lambda^(k-1)  -  V(o_t)
        G_k = sum_{i<k} gamma^i r_{t+i} + gamma^k V(o_{t+k})
    """
    next_value, running = _successors(value, terminated, truncated, final_value, last_value)
    advantage = torch.empty_like(reward)
    weights = torch.zeros_like(last_value)  # L_t = sum_{k<H} lambda^k
    rewards = torch.zeros_like(last_value)  # reward part of sum_k lambda^(k-1) G_k
    values = torch.zeros_like(last_value)  # value part
    for t in reversed(range(reward.shape[0])):
        weights = 1 + lam * running[t] * weights
        # r_t is in all H returns: weight L_t; later rewards are multiplied by one gamma and one lambda
        rewards = weights * reward[t] + gamma * lam * running[t] * rewards
        values = gamma * next_value[t] + gamma * lam * running[t] * values
        advantage[t] = (rewards + values) / weights - value[t]
    return advantage, advantage + value


def _successors(
    value: Tensor, terminated: Tensor, truncated: Tensor, final_value: Tensor, last_value: Tensor
) -> tuple[Tensor, Tensor]:
    """Value after each step, and 1 where the episode continues, both [T, N]."""
    following = torch.cat([value[1:], last_value[None]])
    following = torch.where(truncated, final_value, following).masked_fill(terminated, 0.0)
    return following, (~(terminated | truncated)).to(value.dtype)
