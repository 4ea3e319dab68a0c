"""The stable-baselines3 adapter: spaces, auto-reset, and what its algorithms read from infos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.envs.specs import ActionSpec, ObsSpec
from tests.fakes import FakeEnv, fake_spec

pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from rpd.envs.wrappers.sb3 import SB3VecEnv

LENGTH = 3


class Counter(FakeEnv):
    """An action > 0.5 solves the task (terminates); else episodes last LENGTH steps."""

    def __init__(self, num_envs: int, image: bool = False) -> None:
        observations = {"state": ObsSpec(shape=(2,), dtype="float32")}
        if image:
            observations["image.front"] = ObsSpec(shape=(36, 36, 3), dtype="uint8")
        action = ActionSpec(names=("x",), units=("m",), scale=(1.0,), discrete=(False,))
        super().__init__(num_envs, fake_spec(observations=observations, action=action, max_episode_steps=LENGTH))

    def solved(self, action: torch.Tensor) -> torch.Tensor:
        return action[:, 0] > 0.5

    def observe(self) -> TensorDict:
        obs = super().observe().set("privileged", torch.zeros(self.num_envs, 1))
        if "image.front" in self.spec.observations:
            obs["image.front"] = self.t.to(torch.uint8)[:, None, None, None].expand(-1, 36, 36, 3).clone()
        return obs


def actions(*x: float) -> np.ndarray:
    return np.array(x, np.float32)[:, None]


def test_spaces_and_first_observation():
    env = SB3VecEnv(Counter(2), seed=7)
    assert env.observation_space.shape == (2,)
    assert env.action_space.shape == (1,) and env.action_space.low == -1
    np.testing.assert_array_equal(env.reset(), [[7, 0], [8, 0]])


def test_termination_and_time_out():
    env = SB3VecEnv(Counter(2))
    env.reset()
    _, reward, done, infos = env.step(actions(1, 0))  # the first is solved
    assert done.tolist() == [True, False] and reward.tolist() == [1, 0]
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [0, 1])
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["episode"]["r"] == 1 and infos[0]["episode"]["l"] == 1 and infos[0]["is_success"] is True
    assert infos[1] == {"TimeLimit.truncated": False}

    env.step(actions(0, 0))
    obs, _, done, infos = env.step(actions(0, 0))  # time runs out for the second
    assert done.tolist() == [False, True]
    np.testing.assert_array_equal(obs, [[1000, 2], [1001, 0]])  # already the next episode
    np.testing.assert_array_equal(infos[1]["terminal_observation"], [1, 3])
    assert infos[1]["TimeLimit.truncated"] is True and infos[1]["is_success"] is False

    _, _, done, infos = env.step(actions(1, 0))  # solved in the last step: a termination
    assert done.tolist() == [True, False] and infos[0]["TimeLimit.truncated"] is False


def test_every_reset_draws_new_episodes_and_seed_repeats_them():
    env = SB3VecEnv(Counter(2))
    first, second = env.reset(), env.reset()
    assert not set(first[:, 0]) & set(second[:, 0])
    env.seed(0)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), second)


def test_images_are_a_dict_without_dots():
    env = SB3VecEnv(Counter(2, image=True))
    assert set(env.observation_space.spaces) == {"state", "image_front"}
    assert env.observation_space["image_front"].dtype == np.uint8
    env.reset()
    for _ in range(LENGTH):
        obs, _, _, infos = env.step(actions(0, 0))
    assert obs["image_front"].max() == 0
    assert infos[1]["terminal_observation"]["image_front"].shape == (36, 36, 3)
    assert infos[1]["terminal_observation"]["image_front"].min() == LENGTH


def test_vec_env_protocol():
    inner = Counter(3)
    env = SB3VecEnv(inner)
    assert env.get_attr("num_envs", [0, 2]) == [3, 3]
    assert not env.has_attr("no_such_thing")
    env.set_attr("mark", 5)
    assert env.get_attr("mark") == [5, 5, 5]
    env.reset()
    assert env.env_method("render", [0], 8, indices=[1])[0].shape == (1, 8, 8, 3)
    assert env.render("rgb_array").ndim == 3
    assert not any(env.env_is_wrapped(VecMonitor))
    env.close()
    assert inner.closed


@pytest.mark.parametrize("image", [False, True])
def test_ppo_trains_and_reports_true_returns(image):
    env = SB3VecEnv(Counter(4, image=image))
    policy = "MultiInputPolicy" if image else "MlpPolicy"
    model = PPO(policy, env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    assert {e["l"] for e in model.ep_info_buffer} <= {1, 2, 3}
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert set(returns) <= {0.0, 1.0} and max(lengths) <= LENGTH
