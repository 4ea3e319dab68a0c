"""Our environments through Gymnasium's interface: its own checker, spaces, endings in the same step, registration."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import rpd


@pytest.fixture(autouse=True)
def registered():
    kept = dict(gymnasium.registry)
    rpd.register_envs()
    rpd.register_envs()
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(kept)


@pytest.mark.parametrize("options", [{}, {"obs_mode": "rgb", "cameras": ("front",), "image_size": 16}])
def test_gymnasiums_checker_passes(options):
    env = gymnasium.make("rpd/Reach-v0", render_mode="rgb_array", max_episode_steps=None, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*(minimum|maximum) value is (-)?infinity")
        check_env(env.unwrapped, skip_render_check="obs_mode" in options)
    env.close()


def test_vector_of_a_registered_task():
    env = gymnasium.make_vec("rpd/PickCube-v0", num_envs=3, reward="sparse")
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and env.unwrapped.env.spec.reward == "sparse"
    obs, infos = env.reset(seed=5)
    assert env.observation_space.contains(obs) and infos == {}
    obs, reward, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs) and reward.shape == terminated.shape == truncated.shape == (3,) and infos == {}
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.close()


def test_ended_episodes_are_those_of_our_interface():
    ours = rpd.make_env("tabletop/Reach", num_envs=2, max_episode_steps=3)
    theirs = RecordEpisodeStatistics(rpd.make_env("tabletop/Reach", num_envs=2, max_episode_steps=3, as_gymnasium=True))
    ours.reset(7), theirs.reset(seed=7)
    for _ in range(3):
        action = np.full((2, ours.spec.action.dim), 0.1, np.float32)
        step, (obs, reward, terminated, truncated, infos) = ours.step(torch.from_numpy(action)), theirs.step(action)
        np.testing.assert_array_equal(obs, step.obs["state"])
        np.testing.assert_array_equal(reward, step.reward)
    assert truncated.all() and not terminated.any()
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), step.final_obs["state"])
    final = infos["final_info"]
    assert final["seed"].tolist() == [7, 8] and final["_seed"].all() and not final["success"].any()
    np.testing.assert_allclose(infos["episode"]["r"], step.episode.episode_return, rtol=1e-6)
    assert infos["episode"]["l"].tolist() == final["episode"]["l"].tolist() == [3, 3]
    assert len(theirs.render()) == 2 and theirs.render()[0].shape == (256, 256, 3)
    ours.close(), theirs.close()
