"""The controller of a deployment is that of training: same targets, at any rate of commands."""

import numpy as np
import pytest

from rpd.deploy.controller import Controller
from rpd.envs.control import joint_limiter
from rpd.envs.control.arm import Arm
from rpd.envs.control.arm_limits import published
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.robots import ROBOTS

PANDA = ROBOTS["panda"]
HOME = np.array(PANDA.home)
FORWARD = np.array([1.0, 0, 0, 0, 0, 0, 1])


@pytest.fixture
def controller():
    made = Controller(PANDA, Arm(PANDA), action_spec(PANDA), published(PANDA), 0.05)
    made.reset(HOME)
    return made


def test_target_stays_where_the_commands_reached_the_goal(controller):
    start = controller.target.copy()
    goal = controller.step(FORWARD, HOME, HOME)
    controller.follow(goal)
    np.testing.assert_allclose(controller.target - start, [PANDA.max_delta_pos, 0, 0], atol=1e-9)


def test_target_waits_for_an_arm_that_could_not_follow(controller):
    start = controller.target.copy()
    goal = controller.step(FORWARD, HOME, HOME)
    limited = joint_limiter.limit(goal[None], HOME[None], 0 * HOME[None], published(PANDA), 0.05)
    assert limited.acceleration[0]
    commanded = joint_limiter.moved(HOME[None], limited.velocity, published(PANDA), 0.05)[0]
    controller.follow(commanded)
    reached = Arm(PANDA).forward(commanded[None])[0][0]
    np.testing.assert_allclose(controller.target, reached)
    assert 0 < reached[0] - start[0] < PANDA.max_delta_pos
