"""Mobile bases: their laws of motion by hand, and the vector-environment contract of navigation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, NonFiniteError
from rpd.envs.navigation.bases import BASES, COMMAND, DT, advance, track
from rpd.envs.navigation.env import MAX_STEPS, RAYS, REACH, NavigateEnv
from rpd.envs.privileged_state import NavigationState
from rpd.evaluation.evaluate import evaluate
from rpd.policies.loading import load_policy

NO_NOISE = np.zeros((1, 3))


def make(task: str = "Open", **options) -> NavigateEnv:
    env = registry.make(f"navigate/{task}", EnvConfig(**{"num_envs": 4, **options}), num_threads=1)
    assert isinstance(env, NavigateEnv)
    return env


def put(env: NavigateEnv, **state) -> None:
    """Change the state of every environment, e.g. pose=(x, y, heading)."""
    saved = env.state_dict()
    for name, value in state.items():
        saved[name][:] = torch.tensor(value, dtype=saved[name].dtype)
    env.load_state_dict(saved)


def empty(env: NavigateEnv) -> None:
    """Move the obstacles out of the arena."""
    put(env, boxes=(-50.0, -50.0, 0.1, 0.1), discs=(-50.0, -50.0, 0.1))


def drive(name: str, command, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses [steps + 1, 3] and velocities [steps + 1, 3] of a base that starts at rest in the origin."""
    pose, twist = np.zeros((1, 3)), np.zeros((1, 3))
    poses, twists = [pose], [twist]
    for _ in range(steps):
        twist, mean = track(BASES[name], twist, np.array([command], float), NO_NOISE)
        pose = advance(pose, mean)
        poses.append(pose), twists.append(twist)
    return np.concatenate(poses), np.concatenate(twists)


@pytest.mark.parametrize("name", BASES)
def test_velocity_follows_with_the_lag(name):
    base = BASES[name]
    _, twists = drive(name, (0.5, 0, 0), 20)
    time = np.arange(21) * DT
    np.testing.assert_allclose(twists[:, 0], 0.5 * (1 - np.exp(-time / base.lag)), atol=1e-12)


@pytest.mark.parametrize("name", BASES)
def test_base_respects_its_velocity_limits(name):
    base = BASES[name]
    for sign in (1, -1):
        _, twists = drive(name, (9 * sign, 9 * sign, 9 * sign), 100)
        speed = base.forward if sign > 0 else base.backward
        yaw = min(base.yaw_rate, speed / base.turning_radius) if base.turning_radius else base.yaw_rate
        np.testing.assert_allclose(twists[-1], [sign * speed, sign * base.sideways, sign * yaw], atol=1e-6)


def test_arcs_are_circles():
    pose = np.array([[1.0, 2.0, 0.0]])
    for _ in range(20):  # 1 m/s and 0.5 rad/s for 2 s: radius 2 m, one radian
        pose = advance(pose, np.array([[1.0, 0.0, 0.5]]))
    np.testing.assert_allclose(pose[0], [1 + 2 * np.sin(1), 2 + 2 * (1 - np.cos(1)), 1.0], atol=1e-9)
    left = advance(np.array([[0, 0, np.pi / 2]]), np.array([[0.0, 1.0, 0.0]]))  # its left is west
    np.testing.assert_allclose(left[0], [-DT, 0, np.pi / 2], atol=1e-12)


def test_car_has_its_turning_radius():
    poses, twists = drive("car", (1.0, 0, 1.5), 200)
    assert (np.abs(twists[1:, 2]) <= np.abs(twists[1:, 0]) / 0.7 + 1e-12).all()
    circle = poses[100:]
    width = circle[:, :2].max(axis=0) - circle[:, :2].min(axis=0)
    np.testing.assert_allclose(width, 2 * 0.7, atol=0.01)
    poses, _ = drive("car", (0.0, 0, 1.5), 10)
    assert not poses.any()  # it cannot turn on the spot
    poses, _ = drive("wheeled", (0.0, 1.0, 1.5), 10)
    assert not poses[:, :2].any() and poses[-1, 2] > 1  # it can, but not go sideways


def test_legs_sway_only_while_they_walk():
    noise = np.random.default_rng(0).standard_normal((2000, 3))
    rest, _ = track(BASES["legged"], np.zeros((2000, 3)), np.zeros((2000, 3)), noise)
    assert not rest.any()
    full = np.tile(BASES["legged"].high, (2000, 1))
    walk, _ = track(BASES["legged"], full, full, noise)
    np.testing.assert_allclose(walk.std(axis=0), [0.05, 0.05, 0.15], rtol=0.1)
    roll, _ = track(BASES["omni"], full, full, noise)
    assert (roll == roll[0]).all()


def test_observation_by_hand():
    env = make()
    env.reset(0)
    empty(env)
    put(env, pose=(2.0, 3.0, np.pi / 2), goal=(2.0, 6.0, np.pi), twist=(0.5, 0.0, 0.3))
    obs = env.load_state_dict(env.state_dict())
    state = dict(zip(env.spec.state_names, obs["state"][0].tolist(), strict=True))
    assert len(state) == RAYS + 12 == obs["state"].shape[1]
    assert state["range.00"] == pytest.approx(1.0)  # 5 m to the wall ahead, at y = 8
    assert state["range.08"] == pytest.approx(2 / REACH)  # left is x = 0
    assert state["range.16"] == pytest.approx(3 / REACH)
    expected = {"cos": 1, "sin": 0, "distance": 3 / REACH, "near": np.exp(-6), "heading_cos": 0, "heading_sin": 1}
    assert {k: state[f"goal.{k}"] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert (state["velocity.vx"], state["velocity.yaw_rate"]) == (pytest.approx(0.5), pytest.approx(0.2))
    truth = {name: NavigationState.get(obs["privileged"], name)[0].tolist() for name in NavigationState.fields}
    assert truth["goal_pos"] == pytest.approx([3, 0], abs=1e-6) and truth["goal_yaw"] == pytest.approx([np.pi / 2])
    assert truth["way_pos"] == pytest.approx([3, 0], abs=1e-6) and truth["distance"] == pytest.approx([3])
    assert truth["obstacle_pos"] == pytest.approx([0, 2], abs=1e-6)


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_collision_ends_the_episode(reward):
    env = make(reward=reward)
    env.reset(0)
    empty(env)
    put(env, pose=(7.0, 4.0, 0.0), goal=(2.0, 4.0, 0.0), twist=(1.0, 0.0, 0.0))
    ahead = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    for _ in range(7):  # 0.75 m to where its edge meets the wall: the eighth decimetre is too much
        assert not env.step(ahead).terminated.any()
    step = env.step(ahead)
    assert step.terminated.all() and not step.truncated.any()
    assert not step.episode.success_once.any() and not step.episode.success_at_end.any()
    assert (step.reward < -0.9).all() if reward == "dense" else (step.reward == 0).all()
    assert torch.equal(step.episode.length, torch.full((4,), 8))


@pytest.mark.parametrize(
    ("change", "solved"),
    [
        ({}, True),
        ({"pose": (3.45, 4.0, 0.0)}, False),  # 0.55 m away
        ({"pose": (4.0, 4.0, 0.12)}, False),
        ({"twist": (0.3, 0.0, 0.0)}, False),  # 0.3 exp(-1) = 0.11 m/s after the step
        ({"twist": (0.0, 0.0, 0.3)}, False),
    ],
)
def test_success_is_compass_s(change, solved):
    env = make(reward="sparse")
    env.reset(0)
    empty(env)
    put(env, **{"pose": (4.0, 4.0, 0.05), "goal": (4.0, 4.0, 0.0), "twist": (0.0, 0.0, 0.0), **change})
    step = env.step(torch.zeros(4, 3))
    assert step.terminated.tolist() == [solved] * 4 and (step.reward == float(solved)).all()


def test_dense_reward_is_progress():
    env = make()
    env.reset(0)
    empty(env)
    put(env, pose=(1.0, 4.0, 0.0), goal=(6.0, 4.0, 0.0), twist=(1.0, 0.0, 0.0))
    step = env.step(torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3))
    assert step.reward[0].item() == pytest.approx(0.2 * 0.1 - 1 / MAX_STEPS, abs=1e-4)


def test_time_ends_an_episode():
    env = make(max_episode_steps=5)
    first = env.reset(7)
    for _ in range(5):
        step = env.step(torch.zeros(4, 3))
    assert step.truncated.all() and not step.terminated.any()
    assert torch.equal(step.episode.length, torch.full((4,), 5)) and step.episode.seed.tolist() == [7, 8, 9, 10]
    last = step.final_obs["state"]
    np.testing.assert_array_equal(last[:, :RAYS], first["state"][:, :RAYS])  # it stood still
    assert not torch.equal(step.obs["state"], last)
    env.reset(7, random_start_length=True)
    assert len(set(env.state_dict()["limit"].tolist())) > 1


def test_episodes_are_functions_of_their_seeds():
    one, many = make(num_envs=1, robot="legged"), make(num_envs=4, robot="legged")
    alone, together = one.reset(3), many.reset(2)
    actions = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for action in actions:
        np.testing.assert_array_equal(alone["state"][0], together["state"][1])
        alone, together = one.step(action[None]).obs, many.step(action.expand(4, 3)).obs


def test_every_base_meets_the_same_arenas():
    states = []
    for robot in BASES:
        env = make(robot=robot)
        env.reset(5)
        states.append(env.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[k], states[0][k]) for k in ("boxes", "discs", "pose", "goal"))


@pytest.mark.parametrize("task", ["Open", "Rooms"])
def test_saved_and_restored_exactly(task):
    env, again = make(task, robot="legged", max_episode_steps=20), make(task, robot="legged", max_episode_steps=20)
    env.reset(0, random_start_length=True)
    actions = torch.rand(40, 4, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for action in actions[:15]:
        obs = env.step(action).obs
    restored = again.load_state_dict(env.state_dict())
    assert torch.equal(restored["state"], obs["state"]) and torch.equal(restored["privileged"], obs["privileged"])
    for action in actions[15:]:
        a, b = env.step(action), again.step(action)
        assert torch.equal(a.obs["state"], b.obs["state"]) and torch.equal(a.reward, b.reward)


def test_spec_is_shared_by_all_bases():
    specs = [make(robot=robot).spec for robot in BASES]
    assert all(s.action == COMMAND and s.state_names == specs[0].state_names for s in specs)
    assert len({tuple(s.embodiment.descriptor) for s in specs}) == 1
    assert len({tuple(s.embodiment.descriptor.values()) for s in specs}) == len(BASES)
    assert specs[0].course and not specs[0].scene


def test_pictures():
    env = make("Rooms")
    env.reset(0)
    picture = env.render([2, 0], size=64)
    assert picture.shape == (2, 64, 64, 3) and picture.dtype == torch.uint8
    assert torch.equal(env.render(size=64)[[2, 0]], picture)
    assert len(picture.reshape(-1, 3).unique(dim=0)) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_mode": "rgb"}, "navigate/Open has no cameras"),
        ({"domain_randomization": ("all",)}, "env.domain_randomization does not apply to navigate/Open"),
        ({"control_mode": "x"}, "env.control_mode does not apply"),
        ({"robot": "panda"}, "unknown robot for navigate/Open 'panda'"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_actions_have_to_be_finite():
    env = make()
    env.reset(0)
    with pytest.raises(NonFiniteError, match="environment 1"):
        env.step(torch.tensor([[0.0] * 3, [0.0, float("nan"), 0.0], [0.0] * 3, [0.0] * 3]))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Open", "Rooms"])
def test_planner_reaches_its_goals(task):
    env = make(task, num_envs=64)
    result = evaluate(env, load_policy("scripted", env), 64, 3_000_000)
    assert result.successes >= 62


def test_stable_baselines3_can_train_on_it():
    pytest.importorskip("stable_baselines3")
    from rpd.envs.wrappers.sb3 import SB3VecEnv

    env = SB3VecEnv(make(max_episode_steps=3))
    assert env.reset().shape == (4, RAYS + 12)
    for _ in range(3):
        obs, _, dones, infos = env.step(np.zeros((4, 3)))
    assert dones.all() and infos[0]["TimeLimit.truncated"] and not infos[0]["is_success"]
    assert infos[0]["terminal_observation"].shape == obs[0].shape
