import numpy as np
import pytest

from rpd.cli.log import outcome
from rpd.datasets.deploy_log.format import OPERATOR
from rpd.datasets.deploy_log.reader import Record
from rpd.datasets.reader import open_demos
from rpd.deploy.operators.base import OperatorAction
from rpd.deploy.summary import facts
from rpd.envs.control.arm import Arm
from rpd.envs.robots import ROBOTS

ARM = Arm(ROBOTS["panda"])
TAKEN, RETURNED = 13, 31
"""Ticks of the take-over and of the return; five are one control step."""


class Operator:
    """In control from a tick to `RETURNED`, with a constant action."""

    def __init__(self, motion=(0, 0, 0, 0, 0, 0), gripper_open=None, taken=TAKEN):
        self.taken = taken
        self.made = OperatorAction(np.array(motion, dtype=float), gripper_open, "test")
        self.ticks, self.dues = -1, []

    def begin(self):
        self.ticks = -1

    def action(self, state, due, last):
        self.ticks += 1
        self.dues.append((due, last))
        return self.made if self.taken <= self.ticks < RETURNED else None

    def close(self):
        pass


@pytest.fixture
def operated(rig, monkeypatch):
    def run(operator, steps=10, **options):
        deployed = rig(rate=100.0, operator=operator, **options)
        deployed.resets, reset = [], deployed.policy.reset
        monkeypatch.setattr(deployed.policy, "reset", lambda: (deployed.resets.append(1), reset()))
        deployed.recorder.add({"kind": "episode", "seed": 0, "instruction": "go"})
        deployed.outcome = deployed.run(steps=steps)
        assert not deployed.outcome.fault
        return deployed

    return run


def test_operator_takes_over_at_any_tick_and_returns_control(operated):
    deployed = operated(Operator([0, 0, 0.5, 0, 0, 0]))
    ticks = deployed.ticks()
    assert [i for i, tick in enumerate(ticks) if "takeover" in tick] == [TAKEN] and ticks[TAKEN]["takeover"] == "test"
    assert [i for i, tick in enumerate(ticks) if "returned" in tick] == [RETURNED]
    assert [i for i, tick in enumerate(ticks) if tick.get("who") == OPERATOR] == [13, 18, 23, 28]
    assert [i for i, tick in enumerate(ticks) if "obs" in tick] == [0, 5, 10, 13, 18, 23, 28, 31, 36, 41, 46]
    for i in (13, 18, 23, 28):
        assert ticks[i]["answer"] == ticks[i]["tick"]
        np.testing.assert_array_equal(ticks[i]["raw"], [0, 0, 0.5, 0, 0, 0, 1])  # the gripper is open
    assert len(deployed.resets) == 2  # at the start, and with the return of control
    assert deployed.outcome.who[OPERATOR] == 4 and deployed.outcome.asked == 7
    rise = ARM.forward(ticks[RETURNED]["command"][None])[0][0, 2] - ARM.forward(ticks[TAKEN]["command"][None])[0][0, 2]
    assert rise > 0.01


def test_control_changes_without_a_jump(operated, config):
    """An operator who does nothing: the arm comes to rest where it is, and within its limits."""
    deployed = operated(Operator())
    ticks = deployed.ticks()
    commands = np.array([tick["command"] for tick in ticks])
    missed = np.array([tick["missed"] for tick in ticks])[2:, None]
    changes = np.diff(commands, n=2, axis=0) / 0.01
    assert (np.abs(changes) <= config.safety_limits().acceleration * (1 + missed) * 0.01 + 1e-9).all()
    (at,), (rest,) = (ARM.forward(commands[i][None])[0] for i in (TAKEN - 1, RETURNED - 1))
    assert np.linalg.norm(rest - at) < 0.02
    still = np.abs(np.diff(commands[TAKEN + 8 : RETURNED], axis=0)).max()
    assert still < 2e-3
    assert all(tick["open"] == ticks[TAKEN - 1]["open"] for tick in ticks[TAKEN:RETURNED])


def test_actions_of_the_operator_pass_the_safety_layer(operated, config):
    limits = config.limits.model_copy(update={"tcp_speed": 0.05})
    deployed = operated(Operator([1, 0, -1, 0, 0, 0]), config=config.model_copy(update={"limits": limits}))
    commands = np.array([tick["command"] for tick in deployed.ticks()])
    tcp, box = ARM.forward(commands)[0], config.safety_limits().box
    assert (tcp >= box[0]).all() and (tcp <= box[1]).all()
    missed = np.array([tick["missed"] for tick in deployed.ticks()])[1:]
    assert (np.linalg.norm(np.diff(tcp, axis=0), axis=1) <= 0.05 * 0.01 * (1 + missed) + 1e-9).all()
    assert any(tick["clamps"] for tick in deployed.ticks()[TAKEN:RETURNED])


def test_gripper_keeps_what_it_holds_until_it_is_commanded(operated):
    ticks = operated(Operator(taken=0)).ticks()
    assert all(tick["open"] is None for tick in ticks[:RETURNED]) and ticks[-1]["open"] is True


def test_gripper_obeys_the_operator(operated):
    deployed = operated(Operator(gripper_open=False))
    ticks = deployed.ticks()
    assert ticks[TAKEN - 1]["open"] and not any(tick["open"] for tick in ticks[TAKEN:RETURNED])
    assert ticks[-1]["open"]  # the policy opens it


def test_log_and_demonstrations_show_the_take_over(operated):
    deployed = operated(Operator([0, 0, 0.5, 0, 0, 0]))
    recorded = Record(deployed.path)
    seen = outcome(recorded.played[0])
    for name in ("asked", "answered", "who", "takeovers", "delays"):
        assert getattr(seen, name) == getattr(deployed.outcome, name), name
    assert facts([seen])["taken over"].startswith("once (test 1) in 1 of 1 episodes, 0 of them solved; 4 of ")
    demos = open_demos(deployed.path)
    steps = demos[0].steps
    assert steps["intervention"].sum() == 4 and demos.is_supervised(0)
    np.testing.assert_array_equal(steps["label"][steps["intervention"]], [[0, 0, 0.5, 0, 0, 0, 1]] * 4)
    np.testing.assert_array_equal(demos.demonstrated(0), steps["intervention"])


def test_record_without_an_operator_is_all_demonstrations(rig):
    deployed = rig()
    deployed.recorder.add({"kind": "episode", "seed": 0, "instruction": "go"})
    deployed.run(steps=10)
    demos = open_demos(deployed.path)
    assert "intervention" not in demos.keys and demos.demonstrated(0).all() and not demos.is_supervised(0)
