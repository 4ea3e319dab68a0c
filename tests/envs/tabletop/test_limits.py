"""With published limits a tabletop arm moves as a real one can, and touches what a real one would."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.control import arm_limits, kinematics
from rpd.envs.control.ee_delta import aim
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.env import TabletopEnv
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD
from rpd.envs.tabletop.tasks import TASKS
from rpd.teachers.scripted import ExpertErrors, ScriptedTeacher

DOWN = np.array([[0.0, 1.0, 0.0, 0.0]])  # half a turn about x: z points down


def make(task: str, robot: str, n: int = 8, **options) -> TabletopEnv:
    config = EnvConfig(**{"robot": robot, "num_envs": n, "limits": "published", **options})
    env = registry.make(f"tabletop/{task}", config, num_threads=1)
    assert isinstance(env, TabletopEnv)
    return env


def servo_goals(env: TabletopEnv) -> np.ndarray:
    return np.array(env._control.goals[:, : len(env.robot.joints)])


@pytest.mark.parametrize("robot", ROBOTS)
def test_random_actions_keep_every_limit_of_the_arm(robot):
    env = make("PickCube", robot, max_episode_steps=1000)
    env.reset(0)
    limits, rng, n = arm_limits.published(env.robot), np.random.default_rng(0), len(env.robot.joints)
    before, velocity = servo_goals(env), np.zeros((8, n))
    nearest, fingers = np.inf, np.array(env._control.goals[:, n:])
    for step in range(120):
        if step % 4 == 0:  # held for a while, so that the arm goes far
            action = torch.tensor(np.sign(rng.normal(size=(8, 7))) * rng.uniform(0.3, 1, size=(8, 7)), dtype=torch.float32)
        env.step(action)
        now = servo_goals(env)
        rate = (now - before) / CONTROL_PERIOD
        assert (np.abs(rate) <= limits.velocity + 1e-6).all()
        assert (np.abs(rate - velocity) <= limits.acceleration * CONTROL_PERIOD + 1e-6).all()
        assert (now >= limits.lower - 1e-9).all() and (now <= limits.upper + 1e-9).all()
        assert np.abs(env._control.goals[:, n:] - fingers).max() <= env.robot.gripper.speed * CONTROL_PERIOD + 1e-9
        nearest = min(nearest, env._now.nearest().min())
        before, velocity, fingers = now, rate, np.array(env._control.goals[:, n:])
    assert nearest > -0.01  # soft contacts give way by millimeters, and hold


@pytest.mark.parametrize("robot", ["panda", "so101", "ur5e"])
def test_the_expert_solves_every_episode_and_touches_nothing_but_the_cube(robot):
    env = make("PickCube", robot, n=16)
    obs, solved, nearest = env.reset(0), np.zeros(16, dtype=bool), np.inf
    teacher = ScriptedTeacher(env.spec, ExpertErrors())
    for _ in range(env.spec.max_episode_steps):
        step = env.step(teacher.act(obs, env.instructions))
        obs = step.obs
        solved |= step.terminated.numpy()
        nearest = min(nearest, env._now.nearest().min())
    assert solved.all()
    assert nearest > 0


def test_the_hand_does_not_sink_into_the_table():
    """Down, and rolled while down: the motion that put the hand of an ideal arm far below the table."""
    env = make("Reach", "panda", n=1, max_episode_steps=1000)
    env.reset(0)
    for roll in (0.0, 1.0):
        for _ in range(40):
            env.step(torch.tensor([[0.0, 0.0, -1.0, roll, 0.0, 0.0, 1.0]]))
            assert env._now.nearest().min() > -0.001


def test_resumed_episodes_are_identical():
    env, rng = make("PickCube", "panda", n=4), torch.Generator().manual_seed(0)
    env.reset(0)
    actions = torch.rand(20, 4, 7, generator=rng) * 2 - 1
    for action in actions[:10]:
        env.step(action)
    state = {name: value.clone() for name, value in env.state_dict().items()}
    first = torch.stack([env.step(action).obs["state"] for action in actions[10:]])
    env.load_state_dict(state)
    again = torch.stack([env.step(action).obs["state"] for action in actions[10:]])
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def aimed(way=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0), position=(0.5, 0.0, 0.2), quat=DOWN, limits=None):
    robot = ROBOTS["panda"]
    pose, limits = (np.array([position]), quat), limits or arm_limits.published(robot)
    return aim(robot, limits, arm_limits.tool_points(robot), pose, np.array([way]), np.array([turn]), pose, CONTROL_PERIOD)


def test_target_keeps_the_fingertips_above_the_table():
    """The fingertips are 112 - 103.4 = 8.6 mm in front of the tool center point, and 5 mm stay free."""
    position, _, _ = aimed(way=(0.0, 0.0, -0.05), position=(0.5, 0.0, 0.03))
    np.testing.assert_allclose(position[0], [0.5, 0.0, 0.0136], atol=1e-9)


def test_target_stays_within_the_tilt():
    steep = kinematics.quat_mul(kinematics.rotvec_to_quat(np.array([[math.radians(55), 0.0, 0.0]])), DOWN)
    _, quat, turn = aimed(turn=(0.3, 0.0, 0.0), quat=steep)  # 17 degrees more
    axis = kinematics.quat_to_mat(quat)[0, :, 2]
    assert math.degrees(math.acos(-axis[2])) == pytest.approx(60, abs=1e-6)
    np.testing.assert_allclose(turn[0], [math.radians(5), 0, 0], atol=1e-9)


def test_tilted_hand_is_kept_higher():
    """At 60 degrees a corner of the hand, 100 mm aside and 43.4 mm behind, is 0.1 sin 60 - 0.0434 cos 60 below the tool."""
    steep = kinematics.quat_mul(kinematics.rotvec_to_quat(np.array([[math.radians(60), 0.0, 0.0]])), DOWN)
    position, _, _ = aimed(way=(0.0, 0.0, -0.05), position=(0.5, 0.0, 0.08), quat=steep)
    assert position[0, 2] == pytest.approx(0.1 * math.sin(math.radians(60)) - 0.0434 * 0.5 + 0.005, abs=1e-6)


def test_speed_of_the_tool_shortens_the_way_of_the_target():
    robot = ROBOTS["panda"]
    slow = arm_limits.ArmLimits(**{**vars(arm_limits.published(robot)), "tcp_speed": 0.25})
    position, _, _ = aimed(way=(0.03, 0.04, 0.0), limits=slow)
    np.testing.assert_allclose(position[0], [0.5 + 0.0075, 0.01, 0.2], atol=1e-9)  # 0.25 m/s x 50 ms


def test_episodes_count_violations_and_limited_commands():
    """An arm that is put onto the table is too near to it; full actions from rest are more than an arm can follow."""
    env = make("Reach", "panda", n=2, max_episode_steps=4)
    env.reset(0)
    env._now.qpos[0, env._world.arm[1]] += 0.6  # shoulder
    env._control.goals[0, 1] += 0.6
    env._batch.forward()
    env._state["target_pos"][0] = env._now.tcp[0]
    for _ in range(4):
        step = env.step(torch.tensor([[0.0] * 7, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    assert step.episode.violated.tolist() == [True, False]
    assert step.episode.limited[1] > 0.5
    assert not env._state["violated"].any() and not env._state["limited"].any()  # of the next episodes


@pytest.mark.parametrize("robot, task", [*((robot, "PickCube") for robot in ROBOTS), *(("panda", task) for task in TASKS)])
def test_every_robot_counts_collisions_in_every_task(robot, task):
    """With the table and, folded, with itself."""
    env = make(task, robot, n=3, max_episode_steps=3)
    env.reset(0)
    low, high = np.array([link.limits for link in env.robot.links]).T
    rng, arm, found = np.random.default_rng(0), env._world.arm, {}
    for _ in range(60):  # random postures, until some are inside of the table, and some inside of the arm
        postures = rng.uniform(low, high, (3, len(low)))
        env._now.qpos[:, arm] = postures
        env._batch.forward()
        table, itself = env._now.nearest().T[:2]
        for name, rows in (("table", (table < 0) & (itself > 0.002)), ("itself", (itself < 0) & (table > 0.002))):
            if rows.any():
                found[name] = postures[np.flatnonzero(rows)[0]]
    env.reset(0)
    for row, name in enumerate(("table", "itself")):
        env._now.qpos[row, arm] = env._control.goals[row, : len(low)] = found[name]
    env._batch.forward()
    assert (env._now.nearest() < 0.002).tolist() == [[True, False], [False, True], [False, False]]
    for _ in range(3):
        step = env.step(torch.zeros(3, 7))
    assert step.episode.violated.tolist()[:2] == [True, True]


def test_an_ideal_arm_measures_neither():
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=1, max_episode_steps=1, limits="none"))
    env.reset(0)
    episode = env.step(torch.zeros(1, 7)).episode
    assert episode.violated is None and episode.limited is None


def test_arm_trains_within_the_file_of_its_robot():
    env = registry.make("tabletop/Reach", EnvConfig(robot="so101", num_envs=1, limits="so101"))
    shipped = arm_limits.published(ROBOTS["so101"])
    assert env._control._limits.tcp_speed < shipped.tcp_speed and (env._control._limits.velocity <= shipped.velocity).all()


@pytest.mark.parametrize(
    "limits, error",
    [
        ("panda", "configs/robots/panda.yaml is of robot panda, and the environment has robot so101"),
        ("so102", "unknown robot 'so102'"),
        ("none.yaml", "robot file none.yaml does not exist"),
    ],
)
def test_file_that_does_not_fit_is_refused(limits, error):
    with pytest.raises(ConfigError, match=error):
        registry.make("tabletop/Reach", EnvConfig(robot="so101", num_envs=1, limits=limits))


def with_boxes(tmp_path: Path, boxes: str, robot: str = "panda") -> str:
    text = (Path(__file__).parents[3] / "configs" / "robots" / f"{robot}.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("boxes: {}", f"boxes: {{{boxes}}}"))
    return str(file)


def test_file_without_limits_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("kinematics: so101\n")
    with pytest.raises(ConfigError, match=r"limits are missing: it is no robot file"):
        registry.make("tabletop/Reach", EnvConfig(robot="so101", num_envs=1, limits=str(file)))


def test_target_stays_on_its_side_of_an_obstacle():
    """The fingertips are 8.6 mm below the tool center point."""
    corners = np.array([[0.6, -0.1, 0.0]]), np.array([[0.7, 0.1, 0.2]])
    limits = replace(arm_limits.published(ROBOTS["panda"]), obstacles=corners)
    reach = np.abs(arm_limits.tool_points(ROBOTS["panda"])).max(axis=0)  # of hand and fingers from the tool center point
    before, _, _ = aimed(way=(0.03, 0.0, 0.0), position=(0.55, 0.0, 0.1), limits=limits)
    np.testing.assert_allclose(before[0], [0.6 - 0.005 - reach[0], 0.0, 0.1], atol=1e-9)
    aside, _, _ = aimed(way=(0.0, -0.03, 0.0), position=(0.65, 0.1 + 0.005 + reach[1], 0.1), limits=limits)
    np.testing.assert_allclose(aside[0], [0.65, 0.1 + 0.005 + reach[1], 0.1], atol=1e-9)
    above, _, _ = aimed(way=(0.0, 0.0, -0.03), position=(0.65, 0.0, 0.22), limits=limits)
    assert above[0, 2] == pytest.approx(0.2 + 0.005 + 0.0086)
    free, _, _ = aimed(way=(0.0, 0.03, 0.0), position=(0.5, 0.0, 0.1), limits=limits)
    np.testing.assert_allclose(free[0], [0.5, 0.03, 0.1], atol=1e-9)


def test_hand_stops_before_a_box_and_links_that_touch_one_are_counted(tmp_path):
    boxes = "wall: [[0.3, 0.7], [0.28, 0.3], [0, 0.3]], shelf: [[-0.5, -0.2], [-0.2, 0.2], [0.3, 0.9]]"
    env = make("Reach", "panda", n=2, max_episode_steps=60, limits=with_boxes(tmp_path, boxes))
    env.reset(0)
    nearest = np.inf
    for _ in range(40):
        env.step(torch.tensor([[0.0, 1.0, 0, 0, 0, 0, 1.0], [0.0] * 7]))
        nearest = min(nearest, env._now.nearest()[0, 2])
    assert 0.002 < nearest < 0.01 and not env._state["violated"].any()
    env._now.qpos[1, env._world.arm[1]] = -1.5  # the shoulder goes back
    env._control.goals[1, :7] = env._now.qpos[1, env._world.arm]
    env._batch.forward()
    assert env._now.nearest()[1, 3] < 0.002
    env.step(torch.zeros(2, 7))
    assert env._state["violated"].tolist() == [False, True]


@pytest.mark.parametrize(
    "box, error",
    [
        ("[[0.45, 0.5], [0, 0.05], [0, 0.1]]", r"limits.boxes.bin stands where PickCube puts objects and goals, x from 0.3"),
        ("[[0.0, 0.1], [-0.1, 0.1], [0.3, 0.6]]", r"limits.boxes.bin is -?\d+ mm from the arm where episodes start"),
    ],
)
def test_boxes_in_the_way_are_refused(tmp_path, box, error):
    with pytest.raises(ConfigError, match=error):
        make("PickCube", "panda", limits=with_boxes(tmp_path, f"bin: {box}"))
