"""Robot ``robosuite``: the tabletop's tasks with robosuite's Panda, as the tabletop shows them."""

import importlib.util

import numpy as np
import pytest

from rpd.envs.errors import ConfigError
from rpd.envs.live.base import Setup
from rpd.envs.rendering.opengl import platform
from rpd.envs.robosuite.simulated_arm import LiveRobosuite
from rpd.envs.tabletop.simulated_arm import LiveTabletop

SEED = 3_000_017
pytestmark = pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="robosuite is not installed")


@pytest.mark.parametrize("task", ["Reach", "PickCube", "PushCube", "StackCube"])
def test_an_episode_starts_as_in_the_tabletop_and_objects_lie_still(task):
    setup = Setup(f"tabletop/{task}", "panda")
    robosuite, tabletop = LiveRobosuite(setup), LiveTabletop(setup)
    for arm in (robosuite, tabletop):
        arm.begin(SEED)
    measured, expected = robosuite.sense(), tabletop.sense()
    assert robosuite.instruction == tabletop.instruction
    assert np.allclose(measured.joints, expected.joints, atol=1e-6)
    assert list(measured.tracked) == list(expected.tracked)
    assert np.allclose(list(measured.tracked.values()), list(expected.tracked.values()), atol=2e-3)  # 0.1 mm
    assert np.allclose(measured.privileged, expected.privileged, atol=1e-3)
    for _ in range(50):
        robosuite.advance()
    after = robosuite.sense()
    assert np.allclose(measured.privileged, after.privileged, atol=2e-3)
    assert not after.success


def test_cameras_stand_where_the_policy_had_them():
    try:
        platform()
    except ConfigError as error:
        pytest.skip(str(error))
    views = dict.fromkeys(("front", "wrist"))
    setup = Setup("tabletop/PushCube", "panda", image_size=64, viewpoints=views)
    arms = LiveRobosuite(setup), LiveTabletop(setup)
    for camera in views:
        middles = []
        for arm in arms:
            arm.begin(SEED)
            image = arm.picture(camera).astype(float)
            green = image[..., 1] - np.maximum(image[..., 0], image[..., 2])
            middles.append(np.argwhere(green > 0.5 * green.max()).mean(axis=0))
        assert np.abs(middles[0] - middles[1]).max() < 2, camera  # the goal's disc, in pixels


def test_missing_arms_and_tasks_are_named():
    with pytest.raises(ConfigError, match="no arm ur5e: it has panda"):
        LiveRobosuite(Setup("tabletop/PickCube", "ur5e"))
    with pytest.raises(ConfigError, match="no task tabletop/PushT: it has tabletop/Reach"):
        LiveRobosuite(Setup("tabletop/PushT", "panda"))
