"""Saved students and stable-baselines3 models as teachers: same actions, frozen, no pickle."""

from __future__ import annotations

import math
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.io.policy_path import resolve_policy
from rpd.teachers import registry

STATE, ACTIONS = 5, 3


def make_spec(state: int = STATE, actions: int = ACTIONS) -> EnvSpec:
    return EnvSpec(
        task="toy/Toy",
        embodiment=Embodiment(name="toy", num_joints=1, descriptor={}),
        observations={"state": ObsSpec(shape=(state,), dtype="float32")},
        state_names=tuple(f"s{i}" for i in range(state)),
        action=ActionSpec(
            names=tuple(f"a{i}" for i in range(actions)),
            units=("m",) * actions,
            scale=(1.0,) * actions,
            discrete=(False,) * (actions - 1) + (True,),
        ),
        control_hz=20,
        max_episode_steps=10,
        reward="dense",
    )


def make_obs(n: int = 64) -> TensorDict:
    return TensorDict({"state": torch.randn(n, STATE, generator=torch.Generator().manual_seed(0))}, [n])


@pytest.fixture
def student(tmp_path):
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(), StudentConfig(hidden_dims=(8,)))
    for p in policy.actor.parameters():
        p.data *= 100  # beyond [-1, 1], to see the clipping
    policy.save_pretrained(tmp_path / "run" / "checkpoints" / "100" / "policy")
    policy.save_pretrained(tmp_path / "run" / "checkpoints" / "20" / "policy")
    (tmp_path / "run" / "checkpoints" / "last").symlink_to("100")
    return policy, tmp_path / "run"


@pytest.mark.parametrize("where", [".", "checkpoints/100", "checkpoints/last", "checkpoints/100/policy"])
def test_resolve_policy(student, where):
    _, run = student
    assert resolve_policy(run / where).resolve() == run / "checkpoints" / "100" / "policy"


def test_resolve_policy_refuses(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: does not exist"):
        resolve_policy(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="expected a run"):
        resolve_policy(tmp_path)


def test_student_labels_with_its_distribution(student):
    policy, run = student
    teacher = registry.make(str(run), make_spec())
    obs = make_obs()
    out = teacher.label(obs, [""] * 64)
    expected = policy.distribution(obs)
    assert torch.equal(out.mean, expected.mean.clamp(-1, 1))
    assert torch.equal(out.std, expected.std)
    assert (expected.mean.abs() > 1).any()
    assert out.valid.all() and not out.mean.requires_grad
    assert set(out.tensors()) == teacher.output_fields | {"valid"}
    assert teacher.name == str(run)
    assert torch.equal(teacher.weights()["log_std_logit"], policy.log_std_logit)


def test_student_refuses_another_environment(student):
    _, run = student
    with pytest.raises(SpecMismatch, match=r"policy \(toy/Toy\)"):
        registry.make(str(run), make_spec(state=6))


@pytest.mark.parametrize("name", ["nowhere", "", "sb3", "sb3:nowhere.zip", "nowhere,a=1", "sb3:x,a=1"])
def test_bad_names(name):
    with pytest.raises(ConfigError, match=r"policy|nowhere|sb3"):
        registry.make(name, make_spec())


# -- stable-baselines3


class Toy(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
    action_space = spaces.Box(-1, 1, (ACTIONS,), np.float32)


def save_sb3(algorithm: str, path, **policy_kwargs):
    sb3 = pytest.importorskip("stable_baselines3")
    kwargs = {"buffer_size": 1} if algorithm in ("SAC", "TD3", "DDPG") else {}
    model = getattr(sb3, algorithm)("MlpPolicy", Toy(), seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)
    model.save(path)
    return model


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs"),
    [
        ("PPO", {}),
        ("PPO", {"activation_fn": torch.nn.ReLU, "net_arch": [32, 16, 8]}),
        ("PPO", {"net_arch": []}),
        ("A2C", {"log_std_init": -1.0}),
        ("SAC", {}),
        ("SAC", {"activation_fn": torch.nn.Tanh, "net_arch": [16]}),
        ("TD3", {"net_arch": [32, 16]}),
        ("DDPG", {"net_arch": [16, 16]}),
    ],
)
def test_sb3_acts_like_the_model(tmp_path, algorithm, policy_kwargs):
    model = save_sb3(algorithm, tmp_path / "model.zip", **policy_kwargs)
    teacher = registry.make(f"sb3:{tmp_path / 'model.zip'}", make_spec())
    obs = make_obs()
    expected, _ = model.predict(obs["state"].numpy(), deterministic=True)
    out = teacher.label(obs, [""] * 64)
    np.testing.assert_allclose(out.mean[:, :-1], expected[:, :-1], atol=1e-6)
    assert (np.sign(out.mean[:, -1].numpy()) == np.sign(expected[:, -1])).all()
    assert set(out.tensors()) == teacher.output_fields | {"valid"}
    assert ("std" in teacher.output_fields) == (algorithm in ("PPO", "A2C", "SAC"))
    assert out.mean.abs().max() <= 1


def test_sb3_std_and_gripper_of_ppo(tmp_path):
    model = save_sb3("PPO", tmp_path / "model.zip", log_std_init=math.log(0.5))
    obs = make_obs()
    out = registry.make(f"sb3:{tmp_path / 'model.zip'}", make_spec()).label(obs, [""] * 64)
    torch.testing.assert_close(out.std, torch.full_like(out.std, 0.5))
    p = model.policy.get_distribution(obs["state"]).distribution  # N(mu, 0.5)
    opens = 1 - p.cdf(torch.zeros(()))[:, -1]
    torch.testing.assert_close(out.mean[:, -1], (2 * opens - 1).detach())


def test_sb3_std_of_sac_is_that_of_its_samples(tmp_path):
    save_sb3("SAC", tmp_path / "model.zip")
    teacher = registry.make(f"sb3:{tmp_path / 'model.zip'}", make_spec())
    raw, log_std = teacher.policy(make_obs(4)["state"])
    narrow = log_std - 4  # the first order holds where the Gaussian is narrow
    samples = torch.tanh(raw + narrow.exp() * torch.randn(20_000, 4, ACTIONS, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(samples.std(0), narrow.exp() * (1 - torch.tanh(raw) ** 2), rtol=0.03, atol=0)


def test_sb3_refuses(tmp_path):
    path = tmp_path / "model.zip"
    save_sb3("PPO", path)
    with pytest.raises(SpecMismatch, match=r"state entries differ: policy has 5; environment \(toy/Toy\) has 6"):
        registry.make(f"sb3:{path}", make_spec(state=6))
    with pytest.raises(SpecMismatch, match="action dimensions differ: policy has 3"):
        registry.make(f"sb3:{path}", make_spec(actions=4))
    save_sb3("PPO", path, activation_fn=torch.nn.Sigmoid)
    with pytest.raises(ConfigError, match="Sigmoid is not supported"):
        registry.make(f"sb3:{path}", make_spec())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="damaged"):
        registry.make(f"sb3:{path}", make_spec())


def test_sb3_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    save_sb3("PPO", tmp_path / "model.zip")
    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "model.zip") as good, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("data", good.read("data"))
        bad.write(tmp_path / "bomb.pth", "policy.pth")
    with pytest.raises(ConfigError, match="damaged"):
        registry.make(f"sb3:{tmp_path / 'bad.zip'}", make_spec())
