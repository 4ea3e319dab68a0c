"""The rsl_rl adapter: groups, time-outs, episodes of random lengths."""

import pytest
import torch

import rpd

pytest.importorskip("rsl_rl")
from rpd.envs.wrappers.rsl_rl import RslRlVecEnv


def build(**options):
    return RslRlVecEnv(rpd.make_env("tabletop/Reach", num_envs=4, max_episode_steps=5, **options))


def test_episodes_end_by_time_outs():
    env = build(obs_mode="rgb", cameras=("front",), image_size=16)
    obs = env.get_observations()
    assert obs["image_front"].shape == (4, 3, 16, 16) and 0 < obs["image_front"].max() <= 1
    for _ in range(5):
        obs, reward, dones, extras = env.step(torch.zeros(4, env.num_actions))
    assert extras["time_outs"].tolist() == [1] * 4 and dones.tolist() == [1] * 4 and reward.shape == (4,)
    assert env.episode_length_buf.tolist() == [0] * 4 and extras["log"]["/success"].tolist() == [0] * 4
    env.episode_length_buf = torch.ones(4)
    ends = [env.step(torch.zeros(4, env.num_actions))[2] for _ in range(5)]
    assert not all(done.any() == done.all() for done in ends)  # the lengths are random
    env.env.close()
