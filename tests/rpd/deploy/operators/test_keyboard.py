import os
import pty
import signal
import sys
import time

import numpy as np
import pytest

from rpd.deploy.emergency import Emergency
from rpd.deploy.operators import keyboard
from rpd.deploy.operators.keyboard import Keyboard
from rpd.deploy.robots.base import RobotState
from rpd.envs.errors import ConfigError


def state(opening):
    return RobotState(time.monotonic(), np.zeros(7), np.zeros(7), opening)


@pytest.fixture
def terminal(monkeypatch):
    """Writes to the terminal that is standard input; a real pseudo-terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as slave:
        monkeypatch.setattr(sys, "stdin", slave)
        yield lambda typed: os.write(ours, typed.encode())
    os.close(ours)


@pytest.fixture
def typed(terminal, tmp_path, monkeypatch):
    """`typed(keys)` types, and returns the operator's action and the reason to stop."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    operator, emergency = Keyboard(0.5), Emergency(tmp_path / "ESTOP")
    emergency.share_keys(operator.press)
    operator.begin()
    with emergency:

        def act(keys, opening=1.0):
            terminal(keys)
            time.sleep(0.02)
            reason = emergency()
            return operator.action(state(opening), True, None), reason

        yield act


def test_moving_key_takes_over_until_enter(typed):
    assert typed("") == (None, None)
    action, reason = typed("wa")
    assert reason is None and action.gripper_open is None
    np.testing.assert_allclose(action.motion, [0.5, 0.5, 0, 0, 0, 0])
    time.sleep(keyboard.HOLD)
    action, _ = typed("")
    assert not action.motion.any()  # still in control, at rest
    assert typed("\n") == (None, None)
    action, _ = typed("\n")
    assert action is not None and not action.motion.any()


def test_gripper_key_switches_from_what_is_measured(typed):
    assert typed("g", opening=0.8)[0].gripper_open is False
    assert typed("g", opening=0.8)[0].gripper_open is True
    assert typed("gg", opening=0.8)[0].gripper_open is True
    typed("\n")
    assert typed("g", opening=0.1)[0].gripper_open is True


@pytest.mark.parametrize("key", [" ", "x", "W", "\x1b[A"])
def test_every_other_key_stays_an_emergency_stop(typed, key):
    assert typed("w" + key)[1] == "emergency stop: a key"


def test_pipe_is_refused(monkeypatch):
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        with pytest.raises(ConfigError, match="standard input is none"):
            Keyboard(0.5)
