"""PPO as pure functions of tensors, and the update that applies them.

Schulman et al., 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347); GAE: Schulman et al., 2016,
"High-dimensional continuous control using generalized advantage estimation" (arXiv 1506.02438).
"""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import NonFiniteError
from rpd.augment import CONSISTENCY, Augmentation, consistency
from rpd.batch import take
from rpd.config import PPOConfig
from rpd.distill import DistillObjective
from students.actor_critic import ActorCritic, Outputs
from students.distribution import ActionDistribution


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
    """Generalised advantage estimation, with values bootstrapped through time-outs but not through terminations.

    Args:
        reward: [T, N] reward of step t.
        value: [T, N] V(o_t) of the observation that step t acted on.
        terminated: [T, N] bool: the task ended with step t.
        truncated: [T, N] bool: time ran out with step t.
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

    GAE averages the k-step returns G_k with weights (1 - lambda) lambda^(k-1), and gives the last one, at the end of the
    rollout or episode, all the weight that remains. Here only the H returns that exist are averaged:

        A_t = sum_{k=1..H} lambda^(k-1) G_k / sum_{k=1..H} lambda^(k-1)  -  V(o_t)
        G_k = sum_{i<k} gamma^i r_{t+i} + gamma^k V(o_{t+k})
    """
    next_value, running = _successors(value, terminated, truncated, final_value, last_value)
    advantage = torch.empty_like(reward)
    weights = torch.zeros_like(last_value)  # L_t = sum_{k<H} lambda^k
    rewards = torch.zeros_like(last_value)  # the rewards' part of sum_k lambda^(k-1) G_k
    values = torch.zeros_like(last_value)  # the values' part
    for t in reversed(range(reward.shape[0])):
        weights = 1 + lam * running[t] * weights
        # r_t is in all H returns: weight L_t; whatever comes later moves on by one gamma and one lambda
        rewards = weights * reward[t] + gamma * lam * running[t] * rewards
        values = gamma * next_value[t] + gamma * lam * running[t] * values
        advantage[t] = (rewards + values) / weights - value[t]
    return advantage, advantage + value


def _successors(
    value: Tensor, terminated: Tensor, truncated: Tensor, final_value: Tensor, last_value: Tensor
) -> tuple[Tensor, Tensor]:
    """Value of what follows each step, and 1 where the episode goes on, both [T, N]."""
    following = torch.cat([value[1:], last_value[None]])
    following = torch.where(truncated, final_value, following).masked_fill(terminated, 0.0)
    return following, (~(terminated | truncated)).to(value.dtype)


def policy_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """L = -mean min(r A, clip(r, 1 - eps, 1 + eps) A) (equation 7), r = exp(log_ratio); both [M]."""
    ratio = log_ratio.exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def value_loss(value: Tensor, old_value: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """1/2 mean (V - R)²; with `clip`, V may not gain by moving further than that from the old value. All [M]."""
    error = (value - returns).square()
    if clip is not None:
        clipped = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.max(error, (clipped - returns).square())
    return 0.5 * error.mean()


def approx_kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples of old: mean (r - 1) - log r, never negative (Schulman, "k3")."""
    return (log_ratio.expm1() - log_ratio).mean()


def explained_variance(value: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R): 1 is perfect, 0 no better than a constant. Both [M]."""
    return 1 - (returns - value).var(correction=0) / returns.var(correction=0).clamp_min(1e-12)


def normalize(advantage: Tensor) -> Tensor:
    """(A - mean) / std over the batch [M]."""
    return (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)


def make_optimizer(policy: ActorCritic, config: PPOConfig) -> torch.optim.Adam:
    """Return Adam with PPO's customary epsilon; fused, which for these small networks is 3 x as fast also on a CPU."""
    return torch.optim.Adam(policy.acting_parameters(), lr=config.lr, eps=1e-5, fused=True)


def update(
    policy: ActorCritic,
    optimizer: torch.optim.Optimizer,
    batch: TensorDict,
    config: PPOConfig,
    generator: torch.Generator | None = None,
    objective: DistillObjective | None = None,
    use_reward: bool = True,
    augment: Augmentation | None = None,
) -> dict[str, float]:
    """Improve the policy on one batch: epochs of shuffled minibatches.

    The device is waited for once per epoch if `target_kl` is set, and once at the end; never per minibatch.

    Args:
        policy: the student.
        optimizer: over its parameters.
        batch: [M] with ``obs`` (nested), ``action``, ``log_prob``, ``value``, ``advantage``, ``returns``; with an
            objective also what `DistillObjective.prepare` leaves. Without reward only ``obs``, the objective's, and for a
            score ``action`` and ``log_prob``.
        config: of PPO.
        generator: shuffles; on the batch's device.
        objective: the distillation term, prepared for this batch; None: none.
        use_reward: False leaves the distillation term as the only loss, a score as the only advantage.
        augment: what is done to images before they are learnt from, see `rpd.augment`; None: nothing.

    Returns:
        Means over the minibatches, by name.

    Raises:
        NonFiniteError: if a loss or a gradient was NaN or infinite.
    """
    size = batch.batch_size[0]
    splits = min(config.minibatches, size)  # sizes differ by one at most, and no sample is dropped
    device = policy.device
    params = policy.acting_parameters()
    if use_reward:
        batch = batch.copy().set("advantage", normalize(batch["advantage"]))  # a shallow copy: the caller's is unchanged
    rows: list[Tensor] = []
    names: list[str] = []
    for epochs in range(1, config.epochs + 1):
        order = torch.randperm(size, generator=generator, device=device)
        for index in order.tensor_split(splits):
            optimizer.zero_grad(set_to_none=True)
            # The gradients are compared on the first minibatch, where the ratio is still 1.
            metrics = _backward(policy, take(batch, index), config, objective, use_reward, not rows, augment)
            metrics["ppo/grad_norm"] = nn.utils.clip_grad_norm_(params, config.max_grad_norm, foreach=True)
            optimizer.step()
            names = list(metrics)
            rows.append(torch.stack([x.detach() for x in metrics.values()]))
        if "ppo/approx_kl" in names and config.target_kl is not None and epochs < config.epochs:
            kl = torch.stack(rows[-splits:])[:, names.index("ppo/approx_kl")].mean()
            if not kl.item() <= config.target_kl:  # the one wait per epoch; NaN stops too
                break

    totals = dict(zip(names, torch.stack(rows).mean(0).unbind(), strict=True))
    if use_reward:
        totals["ppo/explained_variance"] = explained_variance(batch["value"], batch["returns"])
    if objective is not None:
        totals |= objective.metrics()
    report = dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))
    broken = [name for name, number in report.items() if not math.isfinite(number)]
    if broken:
        raise NonFiniteError("loss", ", ".join(broken))
    return report | {"ppo/epochs": float(epochs)}


def _backward(
    policy: ActorCritic,
    minibatch: TensorDict,
    config: PPOConfig,
    objective: DistillObjective | None,
    use_reward: bool,
    compare: bool,
    augment: Augmentation | None = None,
) -> dict[str, Tensor]:
    """Leave the gradient of the whole loss on one minibatch in the parameters; return scalars by name."""
    assert use_reward or objective is not None, "nothing to learn from: no reward and no teacher"
    scores = objective is not None and objective.scores
    told = policy(minibatch["obs"] if augment is None else augment(minibatch["obs"]))  # what is learnt from labels
    acts = use_reward or scores
    new = told if augment is None or not acts else policy(minibatch["obs"])  # what is learnt from actions
    if objective is not None and use_reward and compare:
        _compare(objective, new, told, minibatch, config, policy.acting_parameters())
    losses: list[Tensor] = []
    metrics: dict[str, Tensor] = {}
    if acts:
        surrogate, metrics = _policy_term(new.distribution, minibatch, _advantage(minibatch, objective, use_reward), config)
        losses.append(surrogate)
    if use_reward:
        critic, more = _critic_term(new, minibatch, config)
        losses.append(critic)
        metrics |= more
    if objective is not None and not scores:
        divergence = objective.mean_divergence(told.distribution, minibatch)
        losses.append(objective.weight * divergence)
        metrics["distill/divergence"] = divergence
    if new is not told:
        metrics["ppo/consistency"] = consistency(new, told, values=use_reward)
        losses.append(CONSISTENCY * metrics["ppo/consistency"])
    torch.stack(losses).sum().backward()
    return metrics


def _advantage(minibatch: TensorDict, objective: DistillObjective | None, use_reward: bool) -> Tensor:
    """A* [M] = norm(A) + w g A_D: the reward's alone is normalised, so that w weighs nats against its deviations."""
    terms = [minibatch["advantage"]] if use_reward else []
    if objective is not None and objective.scores:
        terms.append(objective.weight * objective.advantage(minibatch))
    return torch.stack(terms).sum(0)


def _policy_term(
    distribution: ActionDistribution, minibatch: TensorDict, advantage: Tensor, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate of an advantage [M], and scalars by name."""
    log_ratio = distribution.log_prob(minibatch["action"]) - minibatch["log_prob"]
    surrogate = policy_loss(log_ratio, advantage, config.clip)
    with torch.no_grad():
        continuous = ~distribution.discrete
        metrics = {
            "ppo/policy_loss": surrogate,
            "ppo/approx_kl": approx_kl(log_ratio),
            "ppo/clip_fraction": (log_ratio.expm1().abs() > config.clip).float().mean(),
            "ppo/std": (distribution.std * continuous).mean(0).sum() / continuous.sum().clamp_min(1),
        }
    return surrogate, metrics


def _critic_term(outputs: Outputs, minibatch: TensorDict, config: PPOConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The rest of PPO's loss: of the value, and the entropy bonus; and scalars by name."""
    critic = value_loss(outputs.value, minibatch["value"], minibatch["returns"], config.clip_value)
    entropy = outputs.distribution.entropy().mean()
    metrics = {"ppo/value_loss": critic, "ppo/entropy": entropy}
    return config.value_coef * critic - config.entropy_coef * entropy, metrics


def _compare(
    objective: DistillObjective,
    outputs: Outputs,
    told: Outputs,
    minibatch: TensorDict,
    config: PPOConfig,
    params: list[nn.Parameter],
) -> None:
    """Show the objective the gradients of its own term and of PPO's, from which it may then set w."""

    def surrogate(advantage: Tensor) -> Tensor:
        return _policy_term(outputs.distribution, minibatch, advantage, config)[0]

    by_reward = surrogate(minibatch["advantage"]) + _critic_term(outputs, minibatch, config)[0]
    if objective.scores:
        by_teacher = surrogate(objective.advantage(minibatch))
    else:
        by_teacher = objective.mean_divergence(told.distribution, minibatch)
    gradients = [torch.autograd.grad(x, params, retain_graph=True, allow_unused=True) for x in (by_teacher, by_reward)]
    # None marks parameters that the teacher does not reach (the critic's): they say nothing about the balance.
    shared = [(d, r) for d, r in zip(*gradients, strict=True) if d is not None and r is not None]
    objective.observe([d for d, _ in shared], [r for _, r in shared])
