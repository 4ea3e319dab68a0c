"""Diffusion policies: shapes, saving, and that they learn."""

import math

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.ema import EMA
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.io import pretrained


def learn(policy, states, actions, steps, lr=3e-3):
    """Minimise the loss on pairs of states [R, 2] and chunks [R, H, A]; returns the average of the weights."""
    generator = torch.Generator().manual_seed(0)
    optimizer, average = torch.optim.AdamW(policy.parameters(), lr), EMA(policy, 0.99)
    policy.train()
    for step in range(steps):
        index = torch.randint(len(states), (96,), generator=generator)
        window = {"state": states[index, None].expand(-1, policy.config.n_obs_steps, -1)}
        optimizer.zero_grad()
        policy.loss(policy.encode_window(window), actions[index], generator).backward()
        optimizer.step()
        average.update(policy, step)
    return average.network


def answers(policy, sampler, states):
    obs = TensorDict({"state": states}, batch_size=[len(states)])
    return DiffusionActor(policy, sampler).act(obs, [""] * len(states))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"network": "transformer"}, {"process": "flow"}, {"noise": "action"}], ids=str)
def test_learns_conditional_bimodal_actions(build, settings):
    """x is +0.7 or -0.7, both as likely, where the state's first entry is 0; +0.4 where it is 1. The gripper follows it."""
    policy = build(width=32 if "network" in settings else 16, depth=1, **settings)
    generator = torch.Generator().manual_seed(1)
    states = torch.randint(0, 2, (2048, 1), generator=generator).float().expand(-1, 2).contiguous()
    sign = torch.randint(0, 2, (2048,), generator=generator) * 2.0 - 1
    x = torch.where(states[:, 0] > 0.5, 0.4, 0.7 * sign)
    gripper = torch.where(states[:, 0] > 0.5, 1.0, -1.0)
    network = learn(policy, states, torch.stack([x, gripper], -1)[:, None].expand(-1, 4, -1), 300)
    drawn = answers(network, None, torch.tensor([[0.0, 0.0]] * 100 + [[1.0, 1.0]] * 100))
    assert (drawn[:100, 0].abs() - 0.7).abs().median() < 0.15 and (
        drawn[:100, 0].abs() < 0.3
    ).sum() < 15  # on modes, not between
    assert 20 < (drawn[:100, 0] > 0).sum() < 80  # on both
    assert (drawn[100:, 0] - 0.4).abs().median() < 0.1
    assert (drawn[:100, 1] < 0).float().mean() > 0.95 and (drawn[100:, 1] > 0).float().mean() > 0.95


@pytest.mark.parametrize("settings", [{}, {"network": "transformer"}, {"process": "flow"}, {"cameras": ("front",)}], ids=str)
def test_saved_and_loaded(build, settings, tmp_path):
    policy = build(**settings)
    policy.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = DiffusionPolicy.from_pretrained(tmp_path)
    assert again.spec == policy.spec and again.config == policy.config
    seen = {"state": torch.randn(3, 2)} | {
        k: torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8) for k in policy.spec.cameras
    }
    obs = TensorDict(seen, batch_size=[3])
    torch.testing.assert_close(DiffusionActor(policy).act(obs, [""] * 3), DiffusionActor(again.eval()).act(obs, [""] * 3))


def test_loads_without_diffusers(build, tmp_path, monkeypatch):
    policy = build()
    policy.save_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "diffusers.schedulers.scheduling_ddpm", None)
    assert torch.equal(DiffusionPolicy.from_pretrained(tmp_path).process.alpha_bar, policy.process.alpha_bar)
    with pytest.raises(
        ConfigError, match=r"a new diffusion policy needs diffusers, which is not installed: pip install -e '\.\[diffusion\]'"
    ):
        build()


def test_policy_type_is_checked(build, tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a DiffusionPolicy has no critic and no action density: use an actor-critic"):
        ActorCritic.from_pretrained(tmp_path)
    other = tmp_path / "other"
    ActorCritic(build().spec, StudentConfig(hidden_dims=(8,))).save_pretrained(other)
    with pytest.raises(ConfigError, match="not a diffusion policy but ActorCritic"):
        DiffusionPolicy.from_pretrained(other)
    assert pretrained.describe(tmp_path).diffusion.num_train_timesteps == 20


def test_actions_are_normalised_by_their_range(build):
    policy = build()
    policy.prepare(torch.zeros(3, 2), torch.tensor([[0.2, 1.0], [0.6, -1.0], [0.4, 1.0]]))
    assert policy.normalize(torch.tensor([[0.2, -1.0], [0.6, 1.0]])).flatten().tolist() == pytest.approx([-1, -1, 1, 1])
    assert policy.denormalize(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.4, 1.0])
    policy.prepare(torch.zeros(2, 2), torch.tensor([[0.3, 1.0], [0.3, 1.0]]))  # never moved: not blown up
    assert policy.action_half[0].item() == pytest.approx(0.05)


def test_acts_where_actions_are_scaled_differently(build):
    policy = build()
    spec = policy.spec.model_copy(update={"action": policy.spec.action.model_copy(update={"scale": (0.2, 1.0)})})
    with pytest.raises(SpecMismatch, match="action scale differ"):
        policy.adapt_to(spec)
    policy.student.state_keys = ("goal",)
    policy.adapt_to(spec)  # one that says what it reads means the same physical way
    assert policy.denormalize(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([0.5, 1.0])


def test_average_of_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    average = EMA(network, 0.9)
    torch.nn.init.constant_(network.weight, 3.0)
    average.update(network, 0)
    assert average.network.weight.item() == 3.0  # nothing of the start is kept
    torch.nn.init.constant_(network.weight, 5.0)
    average.update(network, 1)
    assert average.network.weight.item() == pytest.approx(5 - 2 * (1 - 2**-0.75))
    assert average.decay(10**6) == 0.9 and math.isclose(average.decay(1), 1 - 2**-0.75)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"horizon": 5}, "diffusion.horizon 5: a U-Net of 2 resolutions needs a multiple of 2"),
        ({"width": 12}, "diffusion.width 12: a U-Net's channels are in 8 groups"),
        ({"width": 10, "network": "transformer"}, "diffusion.width 10: a transformer of 4 heads needs a multiple of 4"),
    ],
)
def test_incompatible_options_are_refused(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_state_estimation_is_unsupported(build):
    for name in ("state_estimator", "asymmetric_critic"):
        with pytest.raises(ConfigError, match=f"student.{name} needs an actor-critic"):
            DiffusionPolicy(build().spec, StudentConfig(**{name: True}), DiffusionConfig())
