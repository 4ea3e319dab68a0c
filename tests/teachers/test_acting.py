"""A teacher that acts opens or closes its gripper; only its labels are soft. Every family, and whoever lets a teacher act."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.datasets.recorder import play_round
from rpd.deploy import policy_process
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.evaluation.evaluate import evaluate
from rpd.policies import loading
from rpd.serve.service import PolicyService
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.residual import ResidualActorCritic
from rpd.teachers import registry
from rpd.teachers.adapters.student import frozen, teacher_action
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.families import FAMILIES, Family

TASK, N = "tabletop/Reach", 4
SOFT = 0.3
"""A gripper half-way: opened with a probability of 0.65."""


class Unsure(Teacher):
    """Somebody's own: it says a soft gripper, and too large a step, and leaves acting to the base class."""

    name, output_fields = "unsure", frozenset({"mean"})

    def check_env(self, spec):
        pass

    def label(self, obs, instructions, student_action=None):
        mean = torch.full((len(instructions), 7), 1.5)
        mean[:, 6] = torch.tensor([SOFT, -SOFT]).repeat(len(mean))[: len(mean)]
        return TeacherOutput(mean, valid=torch.ones(len(mean), dtype=torch.bool))


def from_string(argument, options, spec, device):
    return Unsure()


@pytest.fixture(autouse=True)
def unsure(monkeypatch):
    monkeypatch.setitem(FAMILIES, "unsure", Family(__name__, "unsure", "a soft gripper"))


@pytest.fixture(scope="module")
def env():
    with contextlib.closing(envs.make(TASK, EnvConfig(num_envs=N, max_episode_steps=3), "cpu", 1)) as made:
        yield made


@pytest.fixture(scope="module")
def obs(env):
    return env.reset(0)


@pytest.fixture(scope="module")
def saved(env, tmp_path_factory):
    """One policy folder per kind, each unsure about its gripper."""
    torch.manual_seed(0)
    folder, spec = tmp_path_factory.mktemp("policies"), env.spec
    plain = ActorCritic(spec, StudentConfig(hidden_dims=(8,)))
    plain.save_pretrained(folder / "plain")
    ResidualActorCritic(spec, StudentConfig(hidden_dims=(8,)), ResidualConfig(), plain).save_pretrained(folder / "residual")
    ResidualActorCritic(spec, StudentConfig(hidden_dims=(8,)), ResidualConfig(), "scripted:noisy").save_pretrained(
        folder / "outside"
    )
    if pytest.importorskip("diffusers"):
        policy = DiffusionPolicy(
            spec, StudentConfig(type="diffusion"), DiffusionConfig(width=8, horizon=4, num_train_timesteps=20)
        )
        policy.prepare(torch.randn(8, len(spec.state_names)), torch.rand(8, 7) * 2 - 1)
        policy.save_pretrained(folder / "diffusion")
    return folder


def is_hard(actions: torch.Tensor) -> bool:
    return bool((actions[..., 6].abs() == 1).all() and (actions.abs() <= 1).all())


@pytest.mark.parametrize("kind", ["plain", "residual", "outside", "diffusion"])
def test_policies_act_as_themselves(kind, saved, env, obs):
    """By mode, as in their own evaluation, whoever asks; a label stays soft."""
    teacher, itself = registry.make(str(saved / kind), env.spec), loading.load_policy(str(saved / kind), env)
    for each in (teacher, itself):
        each.seed(3)
        each.reset(torch.ones(N, dtype=torch.bool))
    action = teacher.act(obs, [""] * N)
    assert is_hard(action)
    torch.testing.assert_close(action, itself.act(obs, [""] * N), rtol=0, atol=1e-2 if kind == "diffusion" else 0)
    assert kind == "diffusion" or not is_hard(teacher.label(obs, [""] * N).mean)
    served = frozen(saved / kind, env.spec, "cpu")  # as `rpd serve` builds it
    assert is_hard(served.act(obs, [""] * N))


@pytest.mark.parametrize("name", ["scripted", "scripted:noisy", "scripted:gripper_error_rate=0.5", "unsure"])
def test_other_teachers_act(name, env, obs):
    teacher = registry.make(name, env.spec)
    teacher.seed(0)
    assert is_hard(teacher.act(obs, [""] * N))


def test_base_class_takes_the_sign_of_the_mean(env, obs):
    teacher = registry.make("unsure", env.spec)
    assert teacher.act(obs, [""] * N).tolist() == [[1.0] * 7, [1.0] * 6 + [-1.0]] * 2
    assert teacher.label(obs, [""] * N).mean[:2, 6].tolist() == pytest.approx([SOFT, -SOFT])


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_sb3_acts(algorithm, env, obs, tmp_path):
    sb3, spaces = pytest.importorskip("stable_baselines3"), pytest.importorskip("gymnasium").spaces

    class Toy(pytest.importorskip("gymnasium").Env):
        observation_space = spaces.Box(-np.inf, np.inf, env.spec.observations["state"].shape, np.float32)
        action_space = spaces.Box(-1, 1, (7,), np.float32)

    model = getattr(sb3, algorithm)(
        "MlpPolicy", Toy(), seed=0, device="cpu", **({} if algorithm == "PPO" else {"buffer_size": 1})
    )
    model.save(tmp_path / "model.zip")
    teacher = registry.make(f"sb3:{tmp_path / 'model.zip'}", env.spec)
    action, (predicted, _) = teacher.act(obs, [""] * N), model.predict(obs["state"].numpy(), deterministic=True)
    assert is_hard(action) and (np.sign(predicted[:, 6]) == action[:, 6].numpy()).all()
    np.testing.assert_allclose(action[:, :6], predicted[:, :6], atol=1e-6)
    assert not is_hard(teacher.label(obs, [""] * N).mean)


# -- whoever lets a teacher act


def watched(env, monkeypatch) -> list[torch.Tensor]:
    """The actions that `env` is given from now on."""
    taken, step = [], env.step

    def note(action):
        taken.append(action.clone())
        return step(action)

    monkeypatch.setattr(env, "step", note)
    return taken


@pytest.mark.parametrize("name", ["unsure", "{saved}/plain", "{saved}/outside"])
def test_evaluation_and_collection(name, saved, env, monkeypatch):
    policy = loading.load_policy(name.format(saved=saved), env)
    taken = watched(env, monkeypatch)
    evaluate(env, policy, N, seed=0)
    evaluated = len(taken)
    episodes = [take.episode for take in play_round(env, policy, 0, 1)]
    assert evaluated and len(taken) > evaluated and all(map(is_hard, taken))
    assert all(is_hard(torch.from_numpy(episode.steps["label"])) for episode in episodes)


@pytest.mark.parametrize("name", ["unsure", "{saved}/plain"])
def test_serving(name, saved, env, obs):
    teacher = registry.make(name.format(saved=saved), env.spec)
    service = PolicyService(teacher, env.spec, "x")
    session = service.open()
    arrays = {key: value.numpy() for key, value in obs.items() if key != "privileged"}
    *_, answer = service.answer(session, {**arrays, "prompt": [""] * N})
    *_, labels = service.answer(session, {"request": "label", "obs": arrays, "instructions": [""] * N})
    assert is_hard(torch.from_numpy(answer["actions"]))
    assert not is_hard(torch.from_numpy(np.array(labels["mean"])))


@pytest.mark.parametrize("name", ["unsure", "{saved}/plain"])
def test_deployment(name, saved, env, obs):
    loaded = policy_process.load(name.format(saved=saved), env.spec)
    assert is_hard(torch.from_numpy(loaded.act({key: value[0].numpy() for key, value in obs.items()}, "")))


@pytest.mark.parametrize("name", ["unsure", "{saved}/plain"])
def test_base_actions_have_hard_discrete_dimensions(name, saved, env, obs):
    base = registry.make(name.format(saved=saved), env.spec)
    assert is_hard(teacher_action(base, TensorDict(dict(obs), [N]), [""] * N))
