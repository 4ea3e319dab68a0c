import numpy as np
import pytest

from rpd.config.deploy import CascadeConfig
from rpd.deploy import policy_process
from rpd.deploy.cascade import Cascade
from rpd.deploy.policy import PolicyProcess
from rpd.envs.errors import ConfigError

DISCRETE = (False, False, True)
OBS = {"state": np.zeros(2, np.float32)}


def always(*action):
    return lambda obs, instruction: np.array(action, dtype=float)


def cascade(others=(), teacher=None, value=None, **config):
    settings = CascadeConfig(ask="stop" if teacher is None else "x", **config)
    settings.check()
    return Cascade(settings, always(0.1, 0.2, 0.9), others, value, teacher, DISCRETE)(OBS, "go")


def test_cascade_without_checks_acts():
    decision = Cascade(CascadeConfig(), always(1, 0, 1), [], None, None, DISCRETE)(OBS, "go")
    assert decision.who == "student" and decision.spread is decision.value is None


def test_ensemble_agreement_uses_the_student():
    decision = cascade([always(0.1, 0.4, 0.1)], always(1, 1, 1), spread=0.2, ensemble=("b",))
    assert decision.who == "student" and decision.spread == pytest.approx(0.1)  # of 0.2 and 0.4; grippers agree by sign
    np.testing.assert_array_equal(decision.action, [0.1, 0.2, 0.9])


def test_ensemble_disagreement_queries_the_teacher_or_stops():
    decision = cascade([always(0.1, 0.8, 0.9)], always(-1, -1, -1), spread=0.2, ensemble=("b",))
    assert decision.who == "teacher" and decision.spread == pytest.approx(0.3)
    np.testing.assert_array_equal(decision.action, [-1, -1, -1])
    assert cascade([always(0.1, 0.2, -0.9)], spread=0.2, ensemble=("b",)).who == "unsure"  # the gripper: 1 and -1
    assert cascade([always(0.1, np.nan, 0.9)], spread=0.2, ensemble=("b",)).who == "unsure"


def test_low_value_queries_the_teacher():
    assert cascade(value=lambda obs: -2.0, value_below=-1.0).who == "unsure"
    assert cascade(value=lambda obs: -0.5, value_below=-1.0).who == "student"
    assert cascade(value=lambda obs: float("nan"), value_below=-1.0).who == "unsure"
    with pytest.raises(ConfigError, match="the policy has no value"):
        cascade(value_below=-1.0)


def test_draws_of_a_random_policy():
    answers = iter([0.0, 1.0, -1.0])
    settings = CascadeConfig(ask="stop", draws=3, spread=0.5)
    decided = Cascade(settings, lambda o, i: np.array([next(answers), 0, 1.0]), [], None, None, DISCRETE)(OBS, "go")
    assert decided.who == "unsure" and decided.spread == pytest.approx(np.std([0, 1, -1]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ask": "stop"}, "when"),
        ({"spread": 0.1, "draws": 2}, "has no policy to query"),
        ({"ask": "stop", "spread": 0.1}, "goes with --cascade.ensemble or --cascade.draws"),
        ({"ask": "stop", "value_below": 0.1, "ensemble": ("a",)}, "goes with"),
    ],
)
def test_ineffective_options_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        CascadeConfig(**given).check()


def test_cascade_in_the_control_loop(rig, swing, keep):
    deployed = rig()
    process = PolicyProcess(
        "scripted:noise=0.5",
        deployed.policy.spec,
        cascade=CascadeConfig(ask="scripted", draws=2, spread=0.5),
    )
    deployed.loop.context.policy = process
    outcome = deployed.run(steps=30)
    process.close()
    assert not outcome.fault and outcome.who["teacher"] > 0 and outcome.who["student"] > 0
    for tick in deployed.ticks():
        if "who" in tick:
            assert (tick["spread"] > 0.5) == (tick["who"] == "teacher")


@pytest.mark.parametrize("name", ["zero", "random"])
def test_baselines_never_drive_a_robot(name):
    """Neither as the policy, nor in an ensemble, nor as the policy that is queried: all are loaded here."""
    with pytest.raises(ConfigError, match=f"{name} ignores observations and must not drive a robot"):
        policy_process.load(name, None)
