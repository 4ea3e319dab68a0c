"""PPO: the losses by hand, that the update learns, and that it never waits for the device within an epoch."""

import math
import warnings
from collections import Counter

import pytest
import torch
from tensordict import TensorDict
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rpd.algorithms import ppo
from rpd.algorithms.distillation import DistillObjective, GateContext
from rpd.config.schema import DistillConfig, PPOConfig
from rpd.envs.errors import NonFiniteError
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig

DISCRETE = (False, False, True)


def make_policy(seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    spec = EnvSpec(
        task="test/Bandit",
        embodiment=Embodiment(name="point", num_joints=0, descriptor={}),
        observations={"state": ObsSpec(shape=(3,), dtype="float32")},
        state_names=("a", "b", "c"),
        action=ActionSpec(names=("x", "y", "grip"), units=("m", "m", ""), scale=(1.0, 1.0, 1.0), discrete=DISCRETE),
        control_hz=20,
        max_episode_steps=1,
        reward="dense",
    )
    return ActorCritic(spec, StudentConfig(hidden_dims=(32, 32)))


def best_action(state: torch.Tensor) -> torch.Tensor:
    """What is right in the bandit: two coordinates of the state, and the sign of the third."""
    return torch.cat([state[:, :2], state[:, 2:].sign()], -1)


@torch.no_grad()
def collect(policy: ActorCritic, size: int, generator: torch.Generator, device: str = "cpu") -> TensorDict:
    """One step in each of `size` bandits, labelled by a perfect teacher."""
    state = (torch.rand(size, 3, generator=generator) * 2 - 1).to(device)
    distribution, value = policy({"state": state})
    action = distribution.sample()
    target = best_action(state)
    reward = -(action[:, :2] - target[:, :2]).abs().sum(-1) - (action[:, 2] != target[:, 2]).float()
    return TensorDict(
        {
            "obs": TensorDict({"state": state}, [size]),
            "action": action,
            "log_prob": distribution.log_prob(action),
            "behavior": {"raw": distribution.raw, "log_std": distribution.log_std.expand_as(action)},
            "value": value,
            "advantage": reward - value,
            "returns": reward,
            "teacher": {
                "mean": target,
                "std": torch.full_like(target, 0.2),
                "valid": torch.ones(size, dtype=torch.bool, device=device),
            },
        },
        [size],
    )


def make_objective(use_reward: bool = True, **config) -> DistillObjective:
    return DistillObjective(DistillConfig(**config), "perfect", {"mean", "std"}, DISCRETE, use_reward)


def error(policy: ActorCritic) -> tuple[float, float]:
    """Mean absolute error of the continuous actions, and the fraction of wrong grippers."""
    state = torch.rand(512, 3, generator=torch.Generator().manual_seed(99)) * 2 - 1
    action, target = policy.distribution({"state": state}).mode(), best_action(state)
    return (action - target)[:, :2].abs().mean().item(), (action != target)[:, 2].float().mean().item()


def test_policy_loss_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    # min(r A, clip(r) A) = 1.2, -1.5, 0.5, -0.8
    assert ppo.policy_loss(ratio.log(), advantage, 0.2).item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)


def test_policy_gradient_is_the_advantage_at_ratio_one_and_zero_beyond_the_clip() -> None:
    advantage = torch.tensor([2.0, -3.0, 5.0, -7.0])
    log_ratio = torch.zeros(4, requires_grad=True)
    ppo.policy_loss(log_ratio, advantage, 0.2).backward()
    assert log_ratio.grad.tolist() == (-advantage / 4).tolist()
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    ppo.policy_loss(log_ratio, advantage, 0.2).backward()
    assert (log_ratio.grad != 0).tolist() == [False, True, True, False]


def test_value_loss_by_hand() -> None:
    value, old, returns = torch.tensor([3.0, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0])
    assert ppo.value_loss(value, old, returns, None).item() == pytest.approx(0.5 * (1 + 0.25) / 2)
    # clipped to 1.2 and 0.2: errors 2.8² > 1 and 0.2² < 0.5²
    assert ppo.value_loss(value, old, returns, 0.2).item() == pytest.approx(0.5 * (2.8**2 + 0.25) / 2)


def test_approx_kl_estimates_the_kl() -> None:
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.1, 1.1)
    torch.manual_seed(0)
    x = old.sample((200_000,))
    kl = torch.distributions.kl_divergence(old, new).item()
    assert ppo.approx_kl(new.log_prob(x) - old.log_prob(x)).item() == pytest.approx(kl, rel=0.05)
    assert ppo.approx_kl(torch.zeros(3)).item() == 0.0


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert ppo.explained_variance(returns + 5, returns).item() == 1.0
    assert ppo.explained_variance(torch.zeros(3), returns).item() == 0.0
    assert ppo.explained_variance(-returns, returns).item() == pytest.approx(-3.0)


def test_normalize() -> None:
    assert ppo.normalize(torch.tensor([1.0, 3.0, 5.0, 7.0])).tolist() == pytest.approx(
        [x / math.sqrt(5) for x in (-3, -1, 1, 3)]
    )


def train(policy: ActorCritic, iterations: int, objective: DistillObjective | None = None, use_reward: bool = True) -> dict:
    config = PPOConfig(learning_rate=3e-3, ent_coef=0.0, update_epochs=4, num_minibatches=2)
    optimizer = ppo.make_optimizer(policy, config)
    generator = torch.Generator().manual_seed(1)
    for i in range(iterations):
        batch = collect(policy, 512, generator)
        if objective is not None:
            batch["targets"] = objective.prepare(batch, i, GateContext())
        metrics = ppo.update(policy, optimizer, batch, config, generator, objective, use_reward)
    return metrics


@pytest.mark.slow
def test_ppo_solves_a_bandit() -> None:
    policy = make_policy()
    before = error(policy)
    train(policy, 30)
    after = error(policy)
    assert after[0] < 0.4 * before[0] and after[1] < 0.15, (before, after)


@pytest.mark.parametrize("schedule", ["linear", "gradient-ratio"])
def test_teacher_speeds_up_ppo(schedule: str) -> None:
    alone, taught = make_policy(), make_policy()
    train(alone, 5)
    metrics = train(taught, 5, make_objective(schedule=schedule, weight=2.0, decay_steps=5))
    assert error(taught)[0] < 0.7 * error(alone)[0]
    assert metrics["distill/weight"] > 0 and -1 <= metrics["distill/grad_cosine"] <= 1


def test_dagger_learns_from_the_teacher_alone_and_leaves_the_critic() -> None:
    policy = make_policy()
    critic = [p.clone() for p in policy.critic.parameters()]
    metrics = train(policy, 15, make_objective(use_reward=False), use_reward=False)
    arm, grip = error(policy)
    assert arm < 0.1 and grip < 0.1
    assert all(torch.equal(a, b) for a, b in zip(critic, policy.critic.parameters(), strict=True))
    assert set(metrics) == {
        "distill/divergence", "distill/weight", "distill/gate", "distill/label_fraction", "ppo/grad_norm", "ppo/epochs",
    }  # fmt: skip


@pytest.mark.slow
def test_opd_learns_from_the_teacher_alone_and_leaves_the_critic() -> None:
    """A policy gradient: no reward, no value, no discount."""
    policy = make_policy()
    critic = [p.clone() for p in policy.critic.parameters()]
    before = error(policy)
    metrics = train(policy, 40, make_objective(use_reward=False, divergence="opd"), use_reward=False)
    after = error(policy)
    assert after[0] < 0.4 * before[0] and after[1] < 0.15, (before, after)
    assert all(torch.equal(a, b) for a, b in zip(critic, policy.critic.parameters(), strict=True))
    assert set(metrics) == {
        "distill/divergence", "distill/weight", "distill/gate", "distill/label_fraction", "ppo/grad_norm", "ppo/epochs",
    }  # fmt: skip
    assert 0 < metrics["distill/divergence"] < 3  # KL(S || T), which began above 20


def test_opd_speeds_ppo_up() -> None:
    alone, taught = make_policy(), make_policy()
    train(alone, 10)
    train(taught, 10, make_objective(divergence="opd", schedule="constant", weight=0.5))
    assert error(taught)[0] < 0.8 * error(alone)[0]


def test_without_weight_the_step_is_ppos() -> None:
    weights = []
    for given in (None, make_objective(divergence="opd", weight=0.0)):
        policy, config = make_policy(), PPOConfig(update_epochs=2, num_minibatches=2)
        again = collect(policy, 64, torch.Generator().manual_seed(0))
        if given is not None:
            again["targets"] = given.prepare(again, 0.0, GateContext())
        ppo.update(policy, ppo.make_optimizer(policy, config), again, config, torch.Generator().manual_seed(0), given)
        weights.append(list(policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("divergence", ["nll", "opd"])
def test_comparing_gradients_does_not_change_the_step(divergence: str) -> None:
    config = PPOConfig(update_epochs=1, num_minibatches=1)
    gradients = []
    for compare in (True, False):
        policy, objective = make_policy(), make_objective(divergence=divergence)
        torch.manual_seed(3)
        batch = collect(policy, 64, torch.Generator().manual_seed(0))
        batch["targets"] = objective.prepare(batch, 0.0, GateContext())
        ppo._backward(policy, ppo.Shared(batch), config, objective, True, compare)
        gradients.append([p.grad for p in policy.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("divergence", ["nll", "opd"])
def test_gradient_ratio_holds_the_ratio_in_the_first_update(divergence: str) -> None:
    policy, objective = make_policy(), make_objective(divergence=divergence, schedule="gradient-ratio", weight=0.5)
    batch = collect(policy, 64, torch.Generator().manual_seed(0))
    batch["targets"] = objective.prepare(batch, 0.0, GateContext())
    metrics = ppo.update(policy, ppo.make_optimizer(policy, PPOConfig()), batch, PPOConfig(), None, objective)
    assert metrics["distill/grad_ratio"] == pytest.approx(0.5, rel=1e-4)


def test_every_sample_is_used_once_per_epoch_and_the_batch_is_left_alone() -> None:
    policy = make_policy()
    seen: list[torch.Tensor] = []
    policy.register_forward_pre_hook(lambda module, args: seen.append(args[0]["state"]))
    batch = collect(policy, 67, torch.Generator().manual_seed(0))
    before = batch.clone()
    seen.clear()
    config = PPOConfig(update_epochs=2, num_minibatches=4, target_kl=None)
    metrics = ppo.update(policy, ppo.make_optimizer(policy, config), batch, config)
    assert [len(x) for x in seen] == [17, 17, 17, 16] * 2
    for epoch in (seen[:4], seen[4:]):
        assert torch.equal(torch.cat(epoch).sort(0).values, batch["obs", "state"].sort(0).values)
    assert metrics["ppo/epochs"] == 2
    assert (batch == before).all()


def test_more_minibatches_than_samples() -> None:
    policy = make_policy()
    config = PPOConfig(update_epochs=2, num_minibatches=8)
    ppo.update(policy, ppo.make_optimizer(policy, config), collect(policy, 3, torch.Generator()), config)


def test_target_kl_stops_the_epochs() -> None:
    policy = make_policy()
    batch = collect(policy, 256, torch.Generator().manual_seed(0))
    config = PPOConfig(update_epochs=10, learning_rate=1e-2, target_kl=1e-3)
    metrics = ppo.update(policy, ppo.make_optimizer(policy, config), batch, config)
    assert metrics["ppo/epochs"] < 10


def test_same_seed_same_weights() -> None:
    results = []
    for _ in range(2):
        policy = make_policy()
        torch.manual_seed(5)
        train(policy, 2, make_objective())
        results.append(list(policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("field", ["advantage", "returns", ("teacher", "mean")], ids=str)
def test_non_finite_numbers_stop_the_run(field: str | tuple[str, str]) -> None:
    policy, objective = make_policy(), make_objective()
    batch = collect(policy, 64, torch.Generator().manual_seed(0))
    batch[field][7] = math.nan
    batch["targets"] = objective.prepare(batch, 0.0, GateContext())
    with pytest.raises(NonFiniteError, match="loss") as e:
        ppo.update(policy, ppo.make_optimizer(policy, PPOConfig()), batch, PPOConfig(), None, objective)
    assert e.value.source == "loss"


class _Waits(TorchFunctionMode):
    """Counts what would make the host wait for a GPU: reads of values from Python, and from within operators."""

    READS = frozenset({"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"})

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        outer = self

        class Inner(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                name = func.overloadpacket.__name__
                mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
                if mask or name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"):
                    outer.count[name] += 1
                return func(*args, **(kwargs or {}))

        self.inner = Inner()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.READS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.inner.__enter__()
        return super().__enter__()

    def __exit__(self, *args) -> None:
        super().__exit__(*args)
        self.inner.__exit__(*args)


def count_waits(config: PPOConfig, use_reward: bool, divergence: str, output_fields: str) -> Counter[str]:
    edges = torch.linspace(-1, 1, 10).expand(3, -1)
    chosen = DistillConfig(divergence=divergence)
    policy, objective = make_policy(), DistillObjective(chosen, "perfect", {"mean", output_fields}, DISCRETE, use_reward, edges)
    batch = collect(policy, 64, torch.Generator().manual_seed(0))
    batch["teacher", "bin_logits"] = torch.zeros(64, 3, 9).log_softmax(-1)
    batch["teacher", "samples"] = torch.zeros(64, 4, 3)
    batch["targets"] = objective.prepare(batch, 0.0, GateContext())
    optimizer = ppo.make_optimizer(policy, config)
    with _Waits() as waits:
        ppo.update(policy, optimizer, batch, config, None, objective, use_reward)
    return waits.count


def test_counter_counts() -> None:
    with _Waits() as waits:
        x = torch.ones(3)
        x.sum().item()
        if x[0]:
            x[x > 0]
    assert waits.count["item"] == 1 and waits.count["__bool__"] == 1 and waits.count["index"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("use_reward", [True, False])
@pytest.mark.parametrize(
    ("divergence", "output_fields"),
    [
        ("nll", "std"),
        ("fkl", "bin_logits"),
        ("rkl", "bin_logits"),
        ("opd", "std"),
        ("nearest", "samples"),
        ("fkl", "samples"),
        ("rkl", "samples"),
        ("opd", "samples"),
    ],
)
def test_no_wait_per_minibatch(use_reward: bool, divergence: str, output_fields: str) -> None:
    few = count_waits(PPOConfig(update_epochs=3, num_minibatches=2, target_kl=None), use_reward, divergence, output_fields)
    many = count_waits(PPOConfig(update_epochs=3, num_minibatches=16, target_kl=None), use_reward, divergence, output_fields)
    assert few == many == {"tolist": 1}
    with_kl = count_waits(PPOConfig(update_epochs=3, num_minibatches=16, target_kl=1e9), use_reward, divergence, output_fields)
    assert with_kl["item"] == (2 if use_reward else 0)  # between epochs


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_no_wait_per_minibatch_on_a_gpu() -> None:
    counts = []
    for minibatches in (2, 16):
        config = PPOConfig(update_epochs=3, num_minibatches=minibatches)
        policy, objective = make_policy().cuda(), make_objective()
        batch = collect(policy, 64, torch.Generator().manual_seed(0), "cuda")
        batch["targets"] = objective.prepare(batch, 0.0, GateContext())
        optimizer = ppo.make_optimizer(policy, config)
        generator = torch.Generator("cuda").manual_seed(0)
        ppo.update(policy, optimizer, batch, config, generator, objective)  # warm up
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                ppo.update(policy, optimizer, batch, config, generator, objective)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(w.message) for w in caught))
    assert 0 < counts[0] == counts[1] <= 3  # two between epochs, one at the end
