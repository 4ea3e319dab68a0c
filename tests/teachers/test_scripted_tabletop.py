"""Scripted teachers in the built-in simulator: experts solve every task, weak ones are as weak as they say."""

from __future__ import annotations

import pytest
import torch

from envs import registry as envs
from envs.base import EnvConfig
from teachers import registry as teachers
from teachers.scripted.experts import EXPERTS

N = 100


def success(task: str, name: str, robot: str | None = None, by_mean: bool = False) -> float:
    """Fraction of the first episodes of seeds 10000.. that a teacher solves, acting or (by_mean) by its mean label."""
    env = envs.make(f"tabletop/{task}", EnvConfig(robot=robot, num_envs=N), num_threads=2)
    teacher = teachers.make(name, env.spec)
    teacher.seed(0)
    obs = env.reset(10_000)
    solved, ended = torch.zeros(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
    while not ended.all():
        step = env.step(teacher.label(obs, []).mean if by_mean else teacher.act(obs, []))
        obs = step.obs
        if step.episode is not None:
            first = step.episode.env[~ended[step.episode.env]]
            solved[first] = step.episode.success_once[~ended[step.episode.env]]
            ended[first] = True
    env.close()
    return solved.float().mean().item()


@pytest.mark.parametrize("task", EXPERTS)
@pytest.mark.parametrize("robot", ["panda", "xarm6", "ur5e", "so101"])
def test_expert_solves_the_task(task: str, robot: str) -> None:
    assert success(task, "scripted", robot) >= 0.95


@pytest.mark.parametrize("task", ["PushCube", "PickCube"])
@pytest.mark.parametrize("preset", ["noisy", "biased", "forgetful"])
def test_presets_are_weak_but_not_hopeless(task: str, preset: str) -> None:
    assert 0.1 <= success(task, f"scripted:{preset}") <= 0.5


def test_two_modes_succeed_one_at_a_time_but_not_by_their_mean() -> None:
    assert success("PickCube", "scripted:modes=2") >= 0.95
    assert success("PickCube", "scripted:modes=2", by_mean=True) < 0.75
