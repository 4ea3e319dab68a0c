"""The T: its outline, its overlap with another by hand-computed numbers, and what PushT makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rpd.envs import pusht, registry
from rpd.envs.config import EnvConfig
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.mjcf import GREEN
from rpd.envs.tabletop.tasks.pusht import MARGIN

STILL = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1]])


def inside(points: np.ndarray) -> np.ndarray:
    return np.any([(np.abs(points - centre) <= size).all(axis=1) for centre, size in (pusht.BAR, pusht.STEM)], axis=0)


def sample(count: int = 400_000) -> np.ndarray:
    """Points, even in a square of 144 square half edges around the T."""
    return np.random.default_rng(0).uniform(-6, 6, (count, 2))


def rotation(turn: float) -> np.ndarray:
    return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])


def make(num_envs: int = 1, **options) -> TabletopEnv:
    env = registry.make("tabletop/PushT", EnvConfig(num_envs=num_envs, **options), num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def put(env: TabletopEnv, way: tuple[float, float], turn: float, lift: float = 0.0, over: bool = False) -> None:
    """Stand the T `way` (half edges) from its goal, turned by `turn`; or upside down, turned about its stem."""
    a, half = env._world.object_qpos, env.task.half(env.robot)
    pose = env._now.qpos[:, a : a + 7]
    pose[:, :3] = env._now.mocap[:, 0] + half * np.array([*way, 0.0]) + [0, 0, lift]
    c, s = math.cos(turn / 2), math.sin(turn / 2)
    pose[:, 3:] = [0, c, s, 0] if over else [c, 0, 0, s]
    env._now.qvel[:] = 0


def test_origin_is_its_centre_of_mass():
    points = sample()
    own = points[inside(points)]
    assert len(own) / len(points) * 144 == pytest.approx(pusht.AREA, rel=0.01)
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=0.03)
    assert np.sqrt((own**2).sum(axis=1).mean()) == pytest.approx(pusht.GYRATION, rel=0.005)
    assert np.linalg.norm(own, axis=1).max() == pytest.approx(pusht.REACH, abs=0.1)


@pytest.mark.parametrize(
    ("way", "turn", "cubes"),
    [
        ((0, 0), 0, 7),
        ((2, 0), 0, 3),  # a cube down the stem: one of the bar's and two of the stem's are covered
        ((0, 2), 0, 3),  # a cube along the bar: three of the bar's
        ((0.5, 0), 0, 6),  # a quarter: its front is four cubes wide
        ((0, 0.5), 0, 6),  # likewise, bar and stem together are four cubes high
        ((18 / 7, 0), math.pi, 4),  # upside down with its bar on the stem's end: one of either bar and two between
        ((9 / 7, 12 / 7), math.pi / 2, 4),  # its bar along the stem
        ((11, 0), 0, 0),
        ((0, 0), 2 * math.pi, 7),
    ],
)
def test_overlap_by_hand(way, turn, cubes):
    assert pusht.overlap(np.array([way], dtype=float), np.array([turn], dtype=float)) == pytest.approx(cubes / 7, abs=1e-12)


def test_overlap_and_displacement_match_point_counts():
    points = sample()
    rng = np.random.default_rng(1)
    ways, turns = rng.uniform(-3, 3, (6, 2)), rng.uniform(-math.pi, math.pi, 6)
    covered, moved = pusht.overlap(ways, turns), pusht.displacement(ways, turns, 1.0)
    for i, (way, turn) in enumerate(zip(ways, turns, strict=True)):
        both = inside(points) & inside((points - way) @ rotation(turn))
        assert covered[i] == pytest.approx(both.mean() * 144 / pusht.AREA, abs=0.006)
        own = points[inside(points)]
        assert moved[i] == pytest.approx(np.sqrt(((own @ rotation(turn).T + way - own) ** 2).sum(axis=1).mean()), rel=0.01)
    assert pusht.overlap(np.zeros((0, 2)), np.zeros(0)).shape == (0,)
    np.testing.assert_allclose(pusht.displacement(0.1 * ways, turns, 0.1), 0.1 * moved)


@pytest.mark.parametrize(
    ("pose", "solved"),
    [
        ({"way": (0, 0), "turn": 0}, True),
        ({"way": (0.34, 0), "turn": 0}, True),  # a cube's edge is 2: covered 1 - 4/7 * 0.17
        ({"way": (0.36, 0), "turn": 0}, False),
        ({"way": (0, 0), "turn": 0.08}, True),
        ({"way": (0, 0), "turn": -0.1}, False),
        ({"way": (0, 0), "turn": math.pi}, False),
        ({"way": (0, 0), "turn": 0, "over": True}, True),  # on its face it is the same T
        ({"way": (0, 0), "turn": 0, "lift": 0.02}, False),
    ],
)
def test_success_is_nine_tenths_covered(pose, solved):
    env = make()
    env.reset(0)
    put(env, **pose)
    frame = env._now.frame(np.zeros(1))
    assert env.task.success(frame)[0] == solved
    assert 0 <= env.task.reward(frame)[0] <= 1
    if not pose.get("lift"):
        step = env.step(STILL)
        assert step.terminated[0] == solved and (step.reward[0] == 0) == solved


def test_reward_grows_towards_the_goal():
    env = make()
    env.reset(0)
    rewards = []
    for share in (1.0, 0.6, 0.3, 0.1, 0.0):
        put(env, (6 * share, -4 * share), 3.0 * share)
        frame = env._now.frame(np.zeros(1))
        frame.tcp = frame.object
        rewards.append(float(env.task.reward(frame)[0]))
    assert rewards == sorted(rewards) and rewards[-1] == pytest.approx(1.0) and rewards[0] < 0.5


@pytest.mark.parametrize("robot", ROBOTS)
def test_start_has_random_orientation_within_reach(robot):
    env = make(256, robot=robot)
    scene = env.reset(0)["privileged"]
    reach = pusht.REACH * env.task.half(env.robot)
    low, high = (torch.tensor(corner) for corner in env.robot.workspace)
    for name in ("object_pos", "target_pos"):
        place = ManipulationState.get(scene, name)[:, :2]
        assert (place >= low - MARGIN + reach - 1e-6).all() and (place <= high + MARGIN - reach + 1e-6).all()
    assert (ManipulationState.get(scene, "target_quat") == torch.tensor([1.0, 0, 0, 0])).all()
    turn = env._now.frame(np.zeros(256)).turn
    assert np.histogram(turn, 8, (-math.pi, math.pi))[0].min() > 15
    assert len(ManipulationState.get(scene, "target_pos")[:, 0].unique()) == 256


def test_state_contains_the_rotation():
    env = make(8)
    scene = env.reset(3)
    names = env.spec.state_names
    turn = torch.from_numpy(env._now.frame(np.zeros(8)).turn).float()
    for name, value in (("object.cos", turn.cos()), ("object.sin", turn.sin())):
        torch.testing.assert_close(scene["state"][:, names.index(name)], value, atol=1e-5, rtol=0)
    assert env.spec.oriented and not {"object.cos4", "object.sin4"} & set(names)
    assert env.spec.state_scaled[names.index("object.cos")]
    quarter = ManipulationState.relative(scene["privileged"])[:, 6:8]  # against the fingers, up to quarter turns: of a cube
    assert (quarter - ManipulationState.relative(scene["privileged"], oriented=True)[:, 6:8]).norm(dim=1).min() > 1e-3


def test_goal_is_visible_without_contact():
    env = make(4, obs_mode="rgb", image_size=64, cameras=("front", "side", "wrist"))
    obs = env.reset(0)
    hue = torch.tensor(GREEN) / max(GREEN)
    for camera in ("front", "side", "wrist"):
        pixels = obs[f"image.{camera}"].float()
        green = ((pixels / pixels.amax(-1, keepdim=True).clamp(min=1) - hue).abs() < 0.05).all(-1)
        assert (green.sum((1, 2)) > 10).all(), camera
    put(env, (0, 0), 0.3)
    rest = env._now.qpos[0, env._world.object_qpos + 2]
    for _ in range(5):
        env.step(STILL.expand(4, 7))
    assert env._now.qpos[0, env._world.object_qpos + 2] == pytest.approx(rest, abs=5e-4)  # on the table, not on paint
