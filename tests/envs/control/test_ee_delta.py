"""Cartesian commands move the tool as they say, and a grasp is a grasp only when two fingers hold the cube."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.control import kinematics
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.env import TabletopEnv

N = 2
OPEN, CLOSED = 1.0, -1.0


def make(task: str = "PickCube", robot: str | None = None) -> TabletopEnv:
    """An ideal arm, which is where it is commanded to be after each step."""
    config = EnvConfig(robot=robot, num_envs=N, max_episode_steps=1000, limits="none")
    env = registry.make(f"tabletop/{task}", config, num_threads=1)
    assert isinstance(env, TabletopEnv)
    env.reset(0)
    return env


def command(env: TabletopEnv, *parts: float, gripper: float = OPEN, steps: int = 1) -> torch.Tensor:
    """Send one action [x, y, z, roll, pitch, yaw] to all, some steps; return the last scene."""
    action = torch.tensor([*parts, *[0.0] * (6 - len(parts)), gripper]).expand(N, 7)
    for _ in range(steps):
        scene = env.step(action).obs["privileged"]
    return scene


def settle(env: TabletopEnv, gripper: float = OPEN) -> torch.Tensor:
    return command(env, gripper=gripper, steps=12)


@pytest.mark.slow
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("robot", ROBOTS)
def test_one_full_translation_is_one_max_delta_along_a_base_axis(robot, axis):
    env = make("PushCube", robot)
    start = ManipulationState.get(settle(env), "tcp_pos").clone()
    direction = torch.zeros(3)
    direction[axis] = 1.0 if axis < 2 else -1.0
    command(env, *direction.tolist())
    moved = ManipulationState.get(settle(env), "tcp_pos") - start
    torch.testing.assert_close(moved, (direction * env.robot.max_delta_pos).expand(N, 3), atol=2e-3, rtol=0)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("robot", ["panda", "xarm6", "ur5e"])
def test_one_full_rotation_is_one_max_delta_about_a_base_axis(robot, axis):
    env = make("PushCube", robot)
    before = settle(env).double()
    command(env, *[0.0] * 3, *np.eye(3)[axis])
    after = settle(env).double()
    turned = kinematics.rotation_error(
        ManipulationState.get(after, "tcp_quat").numpy(), ManipulationState.get(before, "tcp_quat").numpy()
    )
    np.testing.assert_allclose(turned, np.tile(np.eye(3)[axis] * env.robot.max_delta_rot, (N, 1)), atol=0.01)
    assert (
        ManipulationState.get(after, "tcp_pos") - ManipulationState.get(before, "tcp_pos")
    ).abs().max() < 3e-3  # about the tcp, not the wrist


def test_five_joints_turn_about_the_vertical():
    env = make("PushCube", "so101")
    before = settle(env).double()
    command(env, 0, 0, 0, 0, 0, 1)
    turned = kinematics.rotation_error(
        ManipulationState.get(settle(env).double(), "tcp_quat").numpy(), ManipulationState.get(before, "tcp_quat").numpy()
    )
    np.testing.assert_allclose(turned[:, 2], env.robot.max_delta_rot, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
def test_commands_accumulate_without_drift(robot):
    env = make("PushCube", robot)
    start = ManipulationState.get(settle(env), "tcp_pos").clone()
    for y in (0.5, 0.5, -1.0, 0.5, -0.5):  # nothing in total
        command(env, 0, y)
    assert (ManipulationState.get(command(env, steps=40), "tcp_pos") - start).norm(dim=1).max() < 1.5e-3


def test_target_pushed_into_the_table_returns_immediately():
    env = make()
    height = ManipulationState.get(command(env, 0, 0, -1, gripper=CLOSED, steps=40), "tcp_pos")[:, 2].clone()
    assert (height > -0.002).all()
    up = ManipulationState.get(command(env, 0, 0, 1, gripper=CLOSED, steps=4), "tcp_pos")[:, 2]
    assert (up - height > 1.0 * env.robot.max_delta_pos).all()


def test_target_stays_near_a_blocked_arm():
    env = make("PushCube", "so101")  # five joints: it cannot lean sideways
    settle(env)
    scene = command(env, 0, 0, 0, 1, steps=20).double()
    ahead = kinematics.rotation_error(env.state_dict()["target_quat"].numpy(), ManipulationState.get(scene, "tcp_quat").numpy())
    angle = np.linalg.norm(ahead, axis=1)
    assert (angle > env.robot.max_delta_rot).all() and (angle < 2.2 * env.robot.max_delta_rot).all()


def test_target_stays_in_the_work_area():
    env = make("PushCube")
    for direction in ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        tcp = ManipulationState.get(command(env, *direction, steps=40), "tcp_pos")
        low, high = (np.array(corner) for corner in env.robot.workspace)
        assert (tcp[:, :2].numpy() >= low - 0.11).all() and (tcp[:, :2].numpy() <= high + 0.11).all()
        assert (tcp[:, 2] <= env.robot.max_height + 0.11).all()


@pytest.mark.parametrize("robot", ROBOTS)
def test_gripper_closes_and_opens_by_sign(robot):
    env = make("PushCube", robot)
    torch.testing.assert_close(ManipulationState.get(settle(env), "gripper"), torch.ones(N, 1), atol=0.02, rtol=0)
    assert ManipulationState.get(settle(env, gripper=-0.01), "gripper").max() < 0.05
    assert ManipulationState.get(settle(env, gripper=0.01), "gripper").min() > 0.95


# Grasps -----------------------------------------------------------------------------------------------------------


def put_cube(env: TabletopEnv, offset: tuple[float, float, float] = (0, 0, 0)) -> None:
    """Put the cube at rest between the fingers, moved by an offset in the tool's frame, its faces parallel to them."""
    a, v = env._world.object_qpos, env._world.object_qvel
    hand = env._now.hand()
    env._now.qpos[:, a : a + 3] = env._now.tcp + hand @ np.array(offset)
    env._now.qpos[:, a + 3 : a + 7] = kinematics.mat_to_quat(hand)
    env._now.qvel[:, v : v + 6] = 0
    env._batch.forward()


def grasped(scene: torch.Tensor) -> torch.Tensor:
    return ManipulationState.get(scene, "grasped")[:, 0] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
def test_squeezed_and_lifted_cube_is_grasped(robot):
    env = make(robot=robot)
    half = env.robot.cube_half_size
    down = (settle(env)[0, 2].item() - half) / env.robot.max_delta_pos
    for _ in range(math.ceil(down)):
        command(env, 0, 0, -down / math.ceil(down))
    settle(env)
    put_cube(env)
    assert not grasped(command(env)).any()  # between the fingers, which are open
    held = settle(env, gripper=CLOSED)
    assert grasped(held).all()
    for _ in range(3):
        held = command(env, 0, 0, 0.5, gripper=CLOSED, steps=2)
        assert grasped(held).all()
    assert (ManipulationState.get(held, "object_pos")[:, 2] > half + 1.0 * env.robot.max_delta_pos).all()
    assert env.spec.state_names[-13:-11] == ("touch.left", "touch.right")
    released = command(env, gripper=OPEN, steps=3)
    assert not grasped(released).any()
    settle(env)
    torch.testing.assert_close(
        ManipulationState.get(settle(env), "object_pos")[:, 2], torch.full((N,), half), atol=2e-3, rtol=0
    )


def test_closed_empty_fingers_are_no_grasp():
    env = make()
    a = env._world.object_qpos
    for _ in range(12):
        env._now.qpos[:, a : a + 2] = env._now.tcp[:, :2] + np.array([0.15, 0.0])
        assert not grasped(command(env, gripper=CLOSED)).any()


@pytest.mark.parametrize("inside", [True, False])
def test_contact_of_one_finger_is_no_grasp(inside):
    env = make("PushCube")
    half, gap = env.robot.cube_half_size, env.robot.opening / 2
    low = (settle(env)[0, 2].item() - half) / env.robot.max_delta_pos
    for _ in range(math.ceil(low)):
        command(env, 0, 0, -low / math.ceil(low))
    settle(env)
    # Beside the left finger's pad, or outside of it; then the hand moves that way.
    beside = -(gap - half - 0.002) if inside else gap + env.robot.gripper.finger_thickness + half + 0.002
    put_cube(env, (0, beside, 0))
    a = env._world.object_qpos
    start = env._now.qpos[:, a : a + 2].copy()
    touched = torch.zeros(N, dtype=torch.bool)
    for _ in range(6):
        scene = command(env, *(0.7 * env._now.hand()[0, :, 1]).tolist())
        touched |= torch.from_numpy(np.abs(env._now._contact).max(axis=1) > 0.3)
        assert not grasped(scene).any()
    moved = np.linalg.norm(env._now.qpos[:, a : a + 2] - start, axis=1)
    assert touched.all() and (moved > 0.02).all()


def test_closed_fingers_touching_a_cube_are_no_grasp():
    env = make()
    settle(env, gripper=CLOSED)
    a, half = env._world.object_qpos, env.robot.cube_half_size
    env._now.qpos[:, a : a + 3] = np.concatenate([env._now.tcp[:, :2], np.full((N, 1), half)], axis=1)
    env._now.qpos[:, a + 3 : a + 7] = [1, 0, 0, 0]
    pressed = torch.zeros(N, dtype=torch.bool)
    for _ in range(15):
        scene = command(env, 0, 0, -0.5, gripper=CLOSED)
        assert not grasped(scene).any()
        pressed |= torch.from_numpy(np.abs(env._now._contact).max(axis=1) > 1.0)
    assert pressed.all()


def test_delayed_robot_moves_when_the_command_arrives():
    env = make("Reach", "ur5e_slow")
    before = env.reset(0)["state"][:, env.spec.state_names.index("tcp_lag.y")]
    action = torch.zeros(env.num_envs, 7)
    action[:, 1] = 1.0
    lags = [env.step(action).obs["state"][:, env.spec.state_names.index("tcp_lag.y")] - before for _ in range(3)]
    assert env.spec.embodiment.descriptor["delay"] == 2
    last = env.step(-action).obs["state"][:, env.spec.state_names.index("pending.x1") :][:, :14]
    assert torch.equal(last, torch.cat([-action, action], dim=1))  # what is still on its way, the newest first
    assert lags[0].abs().max() < 1e-3 and lags[1].abs().max() < 1e-3 < lags[2].min()
