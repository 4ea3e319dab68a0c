"""Image augmentation: by hand, its invariants, and where it may enter."""

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms import ppo
from rpd.algorithms.augmentation import PAD, Augmentation, augmentation, color, consistency, shift
from rpd.algorithms.distillation import DistillObjective, GateContext
from rpd.config.schema import DistillConfig, PPOConfig
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.students.actor_critic import ActorCritic, Outputs
from rpd.students.config import StudentConfig
from rpd.students.networks.distribution import ActionDistribution
from rpd.training.on_policy import OnPolicyTrainer


def pictures(n: int = 2, height: int = 3, width: int = 4, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, height, width, channels), generator=generator, dtype=torch.uint8)


def test_shifts_by_hand() -> None:
    image = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)[None, :, :, None]
    moved = shift(image.expand(4, -1, -1, -1), torch.tensor([[0, 0], [1, 0], [0, -1], [-4, 4]]))[..., 0]
    assert moved.tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[4, 5, 6], [4, 5, 6]],  # the lowest row goes on
        [[1, 1, 2], [4, 4, 5]],
        [[3, 3, 3], [3, 3, 3]],  # the upper right corner
    ]


def test_shift_is_padding_and_cropping() -> None:
    images = pictures(5, 12, 10, 6)
    offset = torch.randint(-PAD, PAD + 1, (5, 2), generator=torch.Generator().manual_seed(1))
    planes = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (PAD,) * 4, mode="replicate")
    for moved, plane, (y, x) in zip(shift(images, offset), planes, offset.tolist(), strict=True):
        crop = plane[:, PAD + y : PAD + y + 12, PAD + x : PAD + x + 10]
        assert torch.equal(moved, crop.permute(1, 2, 0).byte())


def test_colours_by_hand() -> None:
    image = torch.tensor([[100, 100, 100], [200, 100, 50]], dtype=torch.uint8).view(1, 1, 2, 3)

    def changed(*factor: float) -> list[list[int]]:
        return color(image, torch.tensor([factor]))[0, 0].tolist()

    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # 124.2
    mean = (100 + grey) / 2  # 112.1
    assert changed(1, 1, 1) == image[0, 0].tolist()
    assert changed(1.2, 1, 1) == [[120] * 3, [240, 120, 60]]
    assert changed(1.4, 1, 1)[1][0] == 255  # clipped
    assert changed(1, 0.5, 1) == [[round(50 + mean / 2)] * 3, [round(x / 2 + mean / 2) for x in (200, 100, 50)]]
    assert changed(1, 1, 0) == [[100] * 3, [round(grey)] * 3]
    assert changed(1, 1, 0.5) == [[100] * 3, [round(x / 2 + grey / 2) for x in (200, 100, 50)]]


def test_images_of_one_sample_share_their_shift() -> None:
    image = pictures(1, 8, 8)
    shown = {"image.a": image.expand(64, -1, -1, -1), "image.b": torch.cat([image, image], -1).expand(64, -1, -1, -1)}
    obs = TensorDict({**shown, "state": torch.zeros(64, 2)}, [64])
    augment = Augmentation(("shift", "color"), ("image.a", "image.b"), torch.Generator().manual_seed(0))
    seen, again = augment(obs), augment(obs)
    assert torch.equal(seen["image.b"][..., :3], seen["image.b"][..., 3:])
    assert len(seen["image.a"].unique(dim=0)) == 64 and not torch.equal(seen["image.a"], again["image.a"])
    assert torch.equal(obs["image.a"], shown["image.a"]) and seen["state"] is obs["state"]
    assert seen["image.a"].dtype == torch.uint8
    augment.generator.manual_seed(0)
    assert torch.equal(augment(obs)["image.a"], seen["image.a"])


def test_shifts_are_uniform_over_all_that_there_are() -> None:
    image = torch.arange(9 * 9, dtype=torch.uint8).view(1, 9, 9, 1).expand(8100, -1, -1, -1)
    seen = Augmentation(("shift",), ("image.a",), torch.Generator().manual_seed(0))(TensorDict({"image.a": image}, [8100]))
    counts = torch.bincount(seen["image.a"][:, 4, 4, 0].long(), minlength=81)  # the middle shows every pixel once
    assert counts.min() > 60 and counts.max() < 145  # of 100


def test_consistency_is_the_kl_and_the_values_apart() -> None:
    discrete = torch.tensor([False, True])
    a = ActionDistribution(torch.tensor([[0.0, 0.0]]), torch.tensor([0.0, 0.0]), discrete)
    b = ActionDistribution(torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([0.5, 0.0]), discrete)
    normal, bernoulli = torch.distributions.Normal, torch.distributions.Bernoulli
    kl = torch.distributions.kl_divergence(normal(0.0, 1.0), normal(1.0, torch.tensor(0.5).exp())) + (
        torch.distributions.kl_divergence(bernoulli(logits=torch.tensor(0.0)), bernoulli(logits=torch.tensor(2.0)))
    )
    torch.testing.assert_close(a.kl(b), kl[None])
    torch.testing.assert_close(a.kl(a), torch.zeros(1))
    value = torch.tensor([1.0], requires_grad=True)
    outputs, augmented = Outputs(a, value), Outputs(b, torch.tensor([3.0]))
    torch.testing.assert_close(consistency(outputs, augmented, values=False), kl)
    loss = consistency(outputs, augmented, values=True)
    torch.testing.assert_close(loss, kl + 2)  # 1/2 (1 - 3)²
    loss.backward()
    assert value.grad is None and b.raw.grad is not None  # what was said of the clean image is the target


@pytest.fixture(scope="module")
def seen():
    """A policy that sees, and a batch of its own actions, labelled."""
    env = envs.make("tabletop/PushCube", EnvConfig(num_envs=64, obs_mode="rgb", image_size=16), num_threads=1)
    obs = env.reset(0)
    env.close()
    torch.manual_seed(0)
    policy = ActorCritic(env.spec, StudentConfig(hidden_dims=(16,), augment=("shift", "color")))
    with torch.no_grad():
        distribution, value = policy(obs)
        action = distribution.sample(torch.Generator().manual_seed(0))
    batch = TensorDict(
        {
            "obs": obs, "action": action, "log_prob": distribution.log_prob(action), "value": value,
            "advantage": torch.randn(64), "returns": torch.randn(64), 
            "teacher": {"mean": torch.zeros_like(action), "valid": torch.ones(64, dtype=torch.bool)},
        },
        [64],
    )  # fmt: skip
    return policy, batch


def objective(use_reward: bool) -> DistillObjective:
    discrete = (False,) * 6 + (True,)
    return DistillObjective(DistillConfig(divergence="mse", weight=1.0), "zero", {"mean"}, discrete, use_reward)


def first_step(seen, use_reward: bool, taught: bool, augmented: bool):
    """What the losses of the first minibatch are, without a step."""
    policy, batch = seen
    augment, batch = augmentation(policy, torch.Generator().manual_seed(3)), batch.copy()
    goal = objective(use_reward) if taught else None
    if goal is not None:
        batch["targets"] = goal.prepare(batch, 0.0, GateContext())
    policy.zero_grad()
    return ppo._backward(policy, ppo.Shared(batch), PPOConfig(), goal, use_reward, False, augment if augmented else None)


def test_ratio_is_that_of_the_images_that_were_acted_on(seen) -> None:
    clean, augmented = (first_step(seen, True, True, on) for on in (False, True))
    assert augmented["ppo/approx_kl"].item() == pytest.approx(0, abs=1e-6) and augmented["ppo/clip_fraction"] == 0
    for name in ("ppo/policy_loss", "ppo/value_loss", "ppo/entropy"):
        torch.testing.assert_close(augmented[name], clean[name])
    assert augmented["distill/divergence"] != clean["distill/divergence"]  # labels are learnt from other images
    assert augmented["ppo/consistency"] > 0 and "ppo/consistency" not in clean


def test_without_a_ratio_there_is_one_pass(seen) -> None:
    metrics = first_step(seen, False, True, True)
    assert set(metrics) == {"distill/divergence"}


@pytest.mark.slow
def test_symmetry_loss_makes_policy_equivariant(seen) -> None:
    policy, batch = ActorCritic.build(seen[0].describe()), seen[1]
    policy.load_state_dict(seen[0].state_dict())
    config = PPOConfig(
        learning_rate=1e-3, update_epochs=1, num_minibatches=4, vf_coef=0, ent_coef=0
    )  # nothing to learn but that
    optimizer, generator = ppo.make_optimizer(policy, config), torch.Generator().manual_seed(0)
    batch = batch.copy().set("advantage", torch.zeros(64))
    augment = augmentation(policy, generator)
    gaps = [ppo.update(policy, optimizer, batch, config, generator, augment=augment)["ppo/consistency"] for _ in range(25)]
    assert sum(gaps[-3:]) < 0.5 * sum(gaps[:3])


def test_augmentation_without_images_is_refused(small, tmp_path) -> None:
    with pytest.raises(ConfigError, match="augment changes images"):
        OnPolicyTrainer(small(student={"augment": ("shift",)}), tmp_path)
