"""The planner: what it does in courses worked out by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.privileged_state import NavigationState
from rpd.teachers import registry as teachers
from rpd.teachers.scripted.navigation import ARRIVE, plan


def course(**fields) -> torch.Tensor:
    rows = torch.zeros(1, NavigationState.dim)
    for name, value in {"obstacle_pos": (-5.0, 0.0), **fields}.items():
        rows[0, NavigationState.fields[name]] = torch.tensor(value)
    return rows


def command(**fields) -> list[float]:
    return plan(course(**fields), speed=1.0, yaw_rate=1.5, radius=0.25)[0].tolist()


def test_turns_before_driving_along_the_path():
    assert command(way_pos=(3.0, 0.0), distance=3.0) == pytest.approx([1, 0, 0], abs=1e-6)
    assert command(way_pos=(0.0, 3.0), distance=3.0) == pytest.approx([0, 0, 1.5])
    assert command(way_pos=(0.0, -3.0), distance=3.0) == pytest.approx([0, 0, -1.5])


def test_turns_in_place_at_the_goal():
    near = {"way_pos": (0.1, 0.1), "distance": ARRIVE - 0.1}
    assert command(**near, goal_yaw=(0.2,)) == pytest.approx([0, 0, 0.5])


def test_slows_down_and_turns_away_from_obstacles():
    free, _, _ = command(way_pos=(3.0, 0.0), distance=3.0)
    slow, _, turn = command(way_pos=(3.0, 0.0), distance=3.0, obstacle_pos=(0.25, 0.2))  # left ahead
    assert slow < free and turn < 0


def test_names_and_refusals():
    spec = registry.make("navigate/Open", EnvConfig(num_envs=1)).spec
    other = registry.make("navigate/Open", EnvConfig(num_envs=1, robot="car")).spec
    teacher = teachers.make("scripted:noise=0.5", spec)
    assert teacher.label(_obs(), []).std.max() == 0.5
    with pytest.raises(SpecMismatch, match="wheeled; the environment is navigate/Open with car"):
        teacher.check_env(other)
    with pytest.raises(ConfigError, match="option of teacher scripted 'bias'"):
        teachers.make("scripted:bias=0.1", spec)
    with pytest.raises(ConfigError, match="preset of teacher scripted for navigate/Open 'biased'"):
        teachers.make("scripted:biased", spec)


def test_noise_is_reproducible():
    spec = registry.make("navigate/Open", EnvConfig(num_envs=1)).spec
    teacher = teachers.make("scripted:noisy", spec)
    first = teacher.label(_obs(), []).mean
    state = teacher.state_dict()
    second = teacher.label(_obs(), []).mean
    assert not torch.equal(first, second)
    teacher.load_state_dict(state)
    assert torch.equal(teacher.label(_obs(), []).mean, second)


def _obs():
    return {"privileged": course(way_pos=(3.0, 0.0), distance=3.0)}
