import time

import numpy as np
import pytest

from rpd.deploy.operators.scripted import DRIFT, STUCK, TURN, Scripted, Step, fault, gap
from rpd.deploy.robots.base import RobotState
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.teachers.scripted import expert

HZ = 20
FORWARD = np.array([0.8, 0, 0, 0, 0, 0, 1.0])


def steps(count, speed, gap):
    return [Step(np.array([i * speed / HZ, 0.0, 0.0]), FORWARD, gap) for i in range(count)]


def test_gap_by_hand():
    assert gap(np.array([0.5, 0, 0, 9, 9, 9, 1]), FORWARD) == pytest.approx(0.3)
    assert gap(np.array([3.0, 0, 0, 0, 0, 0, 0.1]), FORWARD) == pytest.approx(0.2)  # clipped
    assert gap(np.array([0.8, 0, 0, 0, 0, 0, -0.1]), FORWARD) == 2


def test_rules_by_hand():
    assert fault(steps(20, 0.1, 0.1), HZ) is None
    assert fault(steps(20, 0.004, 0.1), HZ) == STUCK
    assert fault(steps(19, 0.0, 0.1), HZ) is None  # too short
    assert fault(steps(10, 0.1, 0.6), HZ) == DRIFT
    assert fault(steps(9, 0.1, 2.0), HZ) is None
    at_rest = [Step(np.zeros(3), np.array([0.05, 0, 0, 0, 0, 0, 1.0]), 0.0)] * 20
    assert fault(at_rest, HZ) is None  # the expert would not move either


def test_takes_over_from_a_policy_that_stands_still_and_gives_back():
    env = registry.make("tabletop/PickCube", EnvConfig(num_envs=1), num_threads=1)
    scene = env.reset(0)["privileged"]
    operator = Scripted(env.spec)
    state = RobotState(time.monotonic(), np.zeros(7), np.zeros(7), 1.0, privileged=scene[0].numpy())
    still, answers = np.array([0, 0, 0, 0, 0, 0, 1.0]), []
    for step in range(15 + round(TURN * HZ)):
        answers.append(operator.action(state, True, still if step else None))
        assert operator.action(state, False, still) is answers[-1]
    taken = [i for i, answer in enumerate(answers) if answer is not None]
    assert taken == list(range(10, 10 + round(TURN * HZ)))
    advice = expert("tabletop/PickCube", scene.double(), env.spec.action)[0]
    np.testing.assert_allclose(answers[10].motion, advice[:6].numpy())
    assert answers[10].reason == DRIFT and answers[10].gripper_open is bool(advice[6] > 0)
    env.close()


def test_real_robot_is_refused():
    env = registry.make("tabletop/PickCube", EnvConfig(num_envs=1), num_threads=1)
    with pytest.raises(ConfigError, match="reads the simulated scene: use --robot sim"):
        Scripted(env.spec.model_copy(update={"scene": False}))
    with pytest.raises(ConfigError, match="has no expert for tabletop/Unknown"):
        Scripted(env.spec.model_copy(update={"task": "tabletop/Unknown"}))
    env.close()
