import numpy as np
import pytest

from envs.errors import ConfigError
from rpd.deploy.cascade import Cascade, CascadeConfig
from rpd.deploy.policy import PolicyProcess

DISCRETE = (False, False, True)
OBS = {"state": np.zeros(2, np.float32)}


def always(*action):
    return lambda obs, instruction: np.array(action, dtype=float)


def cascade(others=(), teacher=None, value=None, **config):
    settings = CascadeConfig(ask="stop" if teacher is None else "teacher:x", **config)
    settings.check()
    return Cascade(settings, always(0.1, 0.2, 0.9), others, value, teacher, DISCRETE)(OBS, "go")


def test_one_that_asks_nobody_acts():
    decision = Cascade(CascadeConfig(), always(1, 0, 1), [], None, None, DISCRETE)(OBS, "go")
    assert decision.who == "student" and decision.spread is decision.value is None


def test_an_ensemble_that_agrees_lets_the_student_act():
    decision = cascade([always(0.1, 0.4, 0.1)], always(1, 1, 1), spread=0.2, ensemble=("b",))
    assert decision.who == "student" and decision.spread == pytest.approx(0.1)  # of 0.2 and 0.4; grippers agree by sign
    np.testing.assert_array_equal(decision.action, [0.1, 0.2, 0.9])


def test_one_that_differs_asks_the_teacher_or_stops():
    decision = cascade([always(0.1, 0.8, 0.9)], always(-1, -1, -1), spread=0.2, ensemble=("b",))
    assert decision.who == "teacher" and decision.spread == pytest.approx(0.3)
    np.testing.assert_array_equal(decision.action, [-1, -1, -1])
    assert cascade([always(0.1, 0.2, -0.9)], spread=0.2, ensemble=("b",)).who == "nobody"  # the gripper: 1 and -1
    assert cascade([always(0.1, np.nan, 0.9)], spread=0.2, ensemble=("b",)).who == "nobody"


def test_a_low_value_asks():
    assert cascade(value=lambda obs: -2.0, value_below=-1.0).who == "nobody"
    assert cascade(value=lambda obs: -0.5, value_below=-1.0).who == "student"
    assert cascade(value=lambda obs: float("nan"), value_below=-1.0).who == "nobody"
    with pytest.raises(ConfigError, match="the policy has no value"):
        cascade(value_below=-1.0)


def test_draws_of_a_random_policy():
    answers = iter([0.0, 1.0, -1.0])
    settings = CascadeConfig(ask="stop", draws=3, spread=0.5)
    decided = Cascade(settings, lambda o, i: np.array([next(answers), 0, 1.0]), [], None, None, DISCRETE)(OBS, "go")
    assert decided.who == "nobody" and decided.spread == pytest.approx(np.std([0, 1, -1]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ask": "stop"}, "when"),
        ({"spread": 0.1, "draws": 2}, "asks nobody"),
        ({"ask": "stop", "spread": 0.1}, "goes with --cascade.ensemble or --cascade.draws"),
        ({"ask": "stop", "value_below": 0.1, "ensemble": ("a",)}, "goes with"),
    ],
)
def test_what_does_nothing_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        CascadeConfig(**given).check()


def test_in_the_loop_it_asks_another_policy(rig, swing, keep):
    deployed = rig()
    process = PolicyProcess(
        "teacher:scripted:noise=0.5",
        deployed.policy.spec,
        cascade=CascadeConfig(ask="teacher:scripted", draws=2, spread=0.5),
    )
    deployed.loop.policy = process
    outcome = deployed.run(steps=30)
    process.close()
    assert not outcome.fault and outcome.who["teacher"] > 3 and outcome.who["student"] > 3
    for tick in deployed.ticks():
        if "who" in tick:
            assert (tick["spread"] > 0.5) == (tick["who"] == "teacher")
