"""Robot ``maniskill``: the tabletop's tasks with ManiSkill's arm, as the tabletop shows them."""

import importlib.util

import numpy as np
import pytest

from rpd.envs.control.arm import Arm
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import Setup
from rpd.envs.maniskill.simulated_arm import TASKS, LiveManiSkill
from rpd.envs.rendering.vulkan import render_settings
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.simulated_arm import LiveTabletop

SEED = 3_000_017


@pytest.fixture(autouse=True)
def vulkan():
    try:
        render_settings()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(params=TASKS)
def both(request):
    """A task in ManiSkill and in the tabletop, at the start of one episode."""
    setup = Setup(f"tabletop/{request.param}", "panda")
    arms = LiveManiSkill(setup), LiveTabletop(setup)
    for arm in arms:
        arm.begin(SEED)
    yield arms
    for arm in arms:
        arm.close()


def test_an_episode_starts_as_in_the_tabletop(both):
    maniskill, tabletop = both
    measured, expected = (arm.sense() for arm in both)
    assert maniskill.instruction == tabletop.instruction
    assert maniskill.joints == tabletop.joints and maniskill.timestep == tabletop.timestep
    assert np.allclose(measured.joints, expected.joints, atol=1e-5)
    assert measured.opening == pytest.approx(expected.opening, abs=1e-3)
    assert list(measured.tracked) == list(expected.tracked)
    assert np.allclose(list(measured.tracked.values()), list(expected.tracked.values()), atol=2e-3)  # 0.1 mm
    same = np.delete(measured.privileged, np.s_[3:7]), np.delete(expected.privileged, np.s_[3:7])  # q and -q are one rotation
    assert np.allclose(*same, atol=1e-3)
    assert not measured.success


def test_objects_lie_still():
    arm = LiveManiSkill(Setup("tabletop/StackCube", "panda"))
    arm.begin(SEED)
    before = arm.sense()
    for _ in range(50):
        arm.advance()
    after = arm.sense()
    arm.close()
    assert np.allclose(before.privileged, after.privileged, atol=5e-4)
    assert np.allclose(before.joints, after.joints, atol=1e-3)


def test_a_grasp_is_felt_and_lifts_the_cube():
    """Above the cube, down, close, up: `grasped` is set, the cube follows, and with the hand open nothing is felt."""
    arm = LiveManiSkill(Setup("tabletop/PickCube", "panda"))
    arm.begin(SEED)
    start = arm.sense()
    description = Arm(ROBOTS["panda"])
    joints, cube = start.joints.copy(), start.privileged[8:11]
    height = 0.15

    def go(target, opening, steps):
        nonlocal joints
        for _ in range(steps):
            position, _ = description.forward(joints[None])
            jacobian = description.jacobian(joints[None])[0][0]
            way = np.clip(target - position[0], -0.005, 0.005)
            turn = np.zeros(3)
            full = np.concatenate([jacobian, description.jacobian(joints[None])[1][0]])
            joints = joints + np.linalg.pinv(full) @ np.concatenate([way, turn])
            arm.drive(joints, opening)
            for _ in range(5):
                arm.advance()

    go(np.array([*cube[:2], height]), 1.0, 40)
    go(np.array([*cube[:2], 0.02]), 1.0, 50)
    assert arm.sense().tracked["touch.left"] == arm.sense().tracked["touch.right"] == 0
    go(np.array([*cube[:2], 0.02]), 0.0, 15)
    held = arm.sense()
    assert held.tracked["touch.left"] == held.tracked["touch.right"] == 1
    assert 0.4 < held.opening < 0.6  # a cube of 40 mm between fingers of 80
    go(np.array([*cube[:2], height]), 0.0, 50)
    assert arm.sense().privileged[10] > 0.1
    arm.close()


def test_options_slow_the_fingers_and_set_the_gains():
    """The hand closes at the given speed, and with less damping the arm lags less behind a command."""
    measured = {}
    for name, options in {"own": {}, "given": {"finger_speed": 0.05, "damping": 37.5}}.items():
        arm = LiveManiSkill(Setup("tabletop/Reach", "panda", options=options))
        arm.begin(SEED)
        goal = arm.sense().joints + np.array([0.2, 0, 0, 0, 0, 0, 0])
        arm.drive(goal, 0.0)
        for _ in range(10):
            arm.advance()
        measured[name] = arm.sense()
        arm.close()
    lag = {name: abs(goal[0] - now.joints[0]) for name, now in measured.items()}
    assert lag["given"] < 0.7 * lag["own"]
    assert measured["own"].opening < 0.5
    assert measured["given"].opening == pytest.approx(1 - 0.1 * 2 * 0.05 / 0.08, abs=0.12)  # of 80 mm, and the servo's lag


def test_cameras_stand_where_the_policy_had_them():
    """Both simulators show the object at the same place of the image, also from the hand."""
    views = dict.fromkeys(("front", "wrist"))
    setup = Setup("tabletop/PushCube", "panda", image_size=64, viewpoints=views)
    arms = LiveManiSkill(setup), LiveTabletop(setup)
    for camera in views:
        middles = []
        for arm in arms:
            arm.begin(SEED)
            image = arm.picture(camera).astype(float)
            assert image.shape == (64, 64, 3)
            green = image[..., 1] - np.maximum(image[..., 0], image[..., 2])
            middles.append(np.argwhere(green > 0.5 * green.max()).mean(axis=0))
        assert np.abs(middles[0] - middles[1]).max() < 2, camera  # the goal's disc, in pixels
    assert not any(name.startswith("object") for name in arms[0].tracked)
    for arm in arms:
        arm.close()


def test_missing_arms_tasks_and_packages_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="no arm ur5e: it has panda"):
        LiveManiSkill(Setup("tabletop/PickCube", "ur5e"))
    with pytest.raises(ConfigError, match="no task tabletop/PushT: it has tabletop/Reach, tabletop/PickCube"):
        LiveManiSkill(Setup("tabletop/PushT", "panda"))
    with pytest.raises(ConfigError, match=r"connection.speed is unknown: it has finger_speed, stiffness, damping"):
        LiveManiSkill(Setup("tabletop/PickCube", "panda", options={"speed": 1.0}))
    with pytest.raises(ConfigError, match=r"connection.damping is 0: a positive number is needed"):
        LiveManiSkill(Setup("tabletop/PickCube", "panda", options={"damping": 0}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs mani-skill, which is not installed"):
        LiveManiSkill(Setup("tabletop/PickCube", "panda"))
