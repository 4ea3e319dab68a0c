"""Numbers that cannot be, from a driver, towards the policy, and from it: the robot is told to stop, with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from rpd.cli import log
from rpd.datasets.deploy_log.reader import Record
from rpd.envs.errors import RunFault

UNSOUND = (np.nan, np.inf, 1e30)


class Lying:
    """A robot whose measurements change from some reading on."""

    def __init__(self, robot, after, change):
        self.robot, self.left, self.change, self.stops = robot, after, change, 0

    def __getattr__(self, name):
        return getattr(self.robot, name)

    def stop(self):
        self.stops += 1
        self.robot.stop()

    def read(self):
        self.left -= 1
        state = self.robot.read()
        return state if self.left >= 0 else self.change(state)


def spoiled(field, bad):
    def change(state):
        if field in state.tracked:
            return replace(state, tracked={**state.tracked, field: bad})
        value = getattr(state, field)
        if np.ndim(value):
            value = value.copy()
            value[-1] = bad
        else:
            value = bad
        return replace(state, **{field: value})

    return change


@pytest.mark.parametrize("bad", UNSOUND)
@pytest.mark.parametrize("field", ["joints", "velocities", "gripper", "effort", "privileged"])
@pytest.mark.parametrize("after", [0, 7], ids=["at rest", "while it moves"])
def test_non_finite_measurement_stops_the_robot(rig, sim, after, field, bad):
    deployed = rig()
    deployed.loop.context.robot = Lying(sim, after, spoiled(field, bad))
    outcome = deployed.run(steps=20)
    named = "scene" if field == "privileged" else field
    assert outcome.fault and f"the robot reports {named} that are not numbers: " in outcome.reason, outcome.reason
    assert deployed.loop.context.robot.stops == 1


@pytest.mark.parametrize("bad", UNSOUND)
def test_non_finite_observation_stops_the_robot(rig, bad):
    deployed = rig()
    observer, shown = deployed.loop.context.observer, []

    class Broken:
        def state(self, *args):
            state = observer.state(*args)
            shown.append(1)
            if len(shown) == 5:
                state[2] = bad
            return state

    deployed.loop.context.observer = Broken()
    outcome = deployed.run(steps=20)
    name = deployed.policy.spec.state_names[2]
    assert outcome.fault and outcome.reason.endswith(f"no number that can be measured: {name} = {np.float32(bad):g}")
    assert outcome.asked == 4


@pytest.mark.parametrize("bad", UNSOUND)
def test_non_finite_action_stops_the_robot(rig, swing, bad):
    swing.change = lambda n, action: np.where(np.arange(7) == 6, np.float32(bad), action) if n > 3 else action
    outcome = rig().run(steps=200)
    assert outcome.fault and "the policy's action is not finite" in outcome.reason


def test_replayed_policy_that_answers_nan(rig, monkeypatch):
    deployed = rig()
    deployed.recorder.add({"kind": "episode", "seed": 0, "instruction": "go"})
    assert deployed.run(steps=20).answered > 0
    loaded = log.load

    def broken(name, spec):
        made = loaded("scripted", spec)
        return replace(made, act=lambda obs, instruction: np.full(7, np.nan))

    monkeypatch.setattr(log, "load", broken)
    with pytest.raises(RunFault, match=r"policy x: its action at tick \d+ is not finite: x = nan"):
        log.differences(Record(deployed.path), "x")
