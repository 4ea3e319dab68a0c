"""TRRD: without weight it is PPO bit for bit, the offset by hand, and what is refused."""

import math

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms import ppo
from rpd.algorithms.distillation import DistillObjective, GateContext
from rpd.config.schema import DistillConfig, PPOConfig
from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig

DISCRETE = (False, False, True)


def objective(use_reward: bool = True, **config) -> DistillObjective:
    chosen = DistillConfig(divergence="trrd", schedule="constant", **config)
    return DistillObjective(chosen, "x", {"mean", "std"}, DISCRETE, use_reward)


def batch(valid: tuple[bool, ...] = (True, True)) -> TensorDict:
    """A student at 0 with sigma = 1, whose gripper is open with p = 1/2; a teacher at 1 with s = 1 and p = 1/2."""
    n = len(valid)
    action = torch.tensor([[1.0, 0.5, 1.0], [-9.0, 0.5, 1.0]])[:n]
    teacher = {"mean": torch.tensor([[1.0, 0.0, 0.0]]).repeat(n, 1), "std": torch.ones(n, 3), "valid": torch.tensor(valid)}
    behavior = {"raw": torch.zeros(n, 3), "log_std": torch.zeros(n, 3)}
    return TensorDict({"teacher": teacher, "action": action, "behavior": behavior, "log_prob": torch.zeros(n)}, [n])


def test_offset_by_hand() -> None:
    # log pi_T - log pi_old = 1/2 of the first action and -9.5 of the second: -1/2 / sqrt(3), and clipped
    o = objective(weight=0.1)
    targets = o.prepare(batch(), 0, GateContext())
    assert o.log_ratio(torch.zeros(2), targets).tolist() == pytest.approx([-0.1 * 0.5 / math.sqrt(3), 0.2])
    assert o.metrics()["distill/divergence"].item() == pytest.approx((9.5 - 0.5) / 2)
    assert not o.adds_loss and o.keeps == {"behavior"}
    targets = o.prepare(batch((True, False)), 0, GateContext())
    assert o.log_ratio(torch.zeros(2), targets)[1] == 0


def test_without_weight_it_is_ppo_bit_for_bit() -> None:
    spec = EnvSpec(
        task="test/Bandit", embodiment=Embodiment(name="point", num_joints=0, descriptor={}),
        observations={"state": ObsSpec(shape=(3,), dtype="float32")}, state_names=("a", "b", "c"),
        action=ActionSpec(names=("x", "y", "grip"), units=("m", "m", ""), scale=(1.0, 1.0, 1.0), discrete=DISCRETE),
        control_hz=20, max_episode_steps=1, reward="dense",
    )  # fmt: skip
    weights = []
    for weight in (None, 0.0, 0.2):
        torch.manual_seed(0)
        policy = ActorCritic(spec, StudentConfig(hidden_dims=(16,)))
        state = torch.randn(64, 3)
        with torch.no_grad():
            distribution, value = policy({"state": state})
        action = distribution.sample()
        rows = TensorDict({
            "obs": TensorDict({"state": state}, [64]), "action": action, "log_prob": distribution.log_prob(action),
            "behavior": {"raw": distribution.raw, "log_std": distribution.log_std.expand_as(action)},
            "value": value, "advantage": torch.randn(64), "returns": torch.randn(64),
            "teacher": {"mean": torch.zeros(64, 3), "std": torch.ones(64, 3), "valid": torch.ones(64, dtype=torch.bool)},
        }, [64])  # fmt: skip
        o = None
        if weight is not None:
            o = objective(weight=weight)
            rows["targets"] = o.prepare(rows, 0, GateContext())
        config = PPOConfig(update_epochs=2, num_minibatches=2)
        generator = torch.Generator().manual_seed(0)
        ppo.update(policy, ppo.make_optimizer(policy, config), rows.exclude("teacher"), config, generator, o)
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill.weight is the teacher's exponent 1 - alpha, 0 to 1, not 2"):
        objective(weight=2.0)
    with pytest.raises(ConfigError, match=r"trrd changes the ratio of the reward's surrogate, and algorithm dagger has no"):
        objective(use_reward=False, weight=0.1)
    with pytest.raises(ConfigError, match=r"trrd adds no loss whose gradient could be compared"):
        DistillObjective(
            DistillConfig(divergence="trrd", weight=0.1, schedule="gradient-ratio"), "x", {"mean", "std"}, DISCRETE
        )
