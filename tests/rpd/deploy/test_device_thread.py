"""Calls of an SDK that block: the loop goes on, the state grows old, and the stop command takes a second way or is given up."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rpd.core.unclosed import UNCLOSED
from rpd.deploy import config as configs
from rpd.deploy.robots import device_thread
from rpd.deploy.robots.base import RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.device_thread import DeviceThread
from rpd.deploy.robots.sim import SimDriver
from rpd.envs.control.limit_config import robot_files
from rpd.envs.errors import ConfigError

PATIENT, IMPATIENT = 60.0, 0.4  # s: for an answer that comes, and for one that does not


class Arm:
    """A driver whose calls take as long as the test says: `blocked` is the set of names of calls that do not return."""

    resets = False
    spec = RobotSpec("arm", ("a",), (1.0, 100.0), effort=None, real=True)

    def __init__(self):
        self.calls, self.blocked, self.failing = [], set(), set()
        self.released = threading.Event()

    def _call(self, name, *rest):
        self.calls.append((name, *rest))
        if name in self.failing:
            raise RobotLost(f"robot arm: {name} fails")
        if name in self.blocked:
            self.released.wait(PATIENT)

    def connect(self):
        self._call("connect")

    def read(self):
        now = time.monotonic()
        self._call("read")
        return RobotState(now, np.zeros(1), np.zeros(1), 0.5)

    def command(self, joints, gripper):
        self._call("command", float(joints[0]))

    def stop(self):
        self._call("stop")

    def close(self):
        self._call("close")

    def names(self):
        return [name for name, *_ in self.calls]


class ArmWithSecondStop(Arm):
    def stop_otherwise(self):
        self._call("stop_otherwise")


@pytest.fixture
def make():
    """`make(arm, deadline)`: a connected `DeviceThread` of an arm."""
    made = []

    def make(arm=None, deadline=PATIENT, period=2 * PATIENT):
        made.append(DeviceThread(arm or Arm(), period, deadline))
        made[-1].connect()
        return made[-1]

    yield make
    for device in made:
        device.driver.blocked.clear()
        device.driver.failing.clear()
        device.driver.released.set()
        device.close()


def until(condition):
    end = time.monotonic() + PATIENT
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_calls_pass_through_and_errors_are_raised_at_once(make):
    device = make()
    began = time.monotonic()
    assert began <= device.read().time <= time.monotonic()
    device.command(np.array([0.1]), None)
    device.stop()
    assert device.driver.names() == ["connect", "read", "command", "stop"]
    device.driver.failing = {"read", "command", "stop"}
    for call in (device.read, device.stop):
        with pytest.raises(RobotLost, match=r"arm: (read|stop) fails"):
            call()


def test_refused_command_is_raised(make):
    device = make()
    device.driver.failing = {"command"}
    with pytest.raises(RobotLost, match="command fails"):
        device.command(np.array([0.1]), None)


@pytest.mark.parametrize("call", ["read", "command"])
def test_blocked_call_lets_the_state_grow_old_and_is_named(make, call):
    device = make(deadline=IMPATIENT, period=0.01)
    until(lambda: device.read() and True)
    device.driver.blocked = {call}
    began = time.monotonic()
    device.command(np.array([0.1]), None)
    with pytest.raises(RobotLost, match=rf"robot arm: it does not answer: '{call}' of its SDK has not returned for \d+ ms"):
        while time.monotonic() < began + PATIENT:
            device.read()
            time.sleep(0.001)


def test_only_the_newest_of_the_commands_that_wait_is_sent(make):
    device = make(period=0.01)
    device.driver.blocked = {"command"}
    for joint in (0.1, 0.2, 0.3):
        device.command(np.array([joint]), None)
        until(lambda: "command" in device.driver.names())
    device.driver.released.set()
    until(lambda: ("command", 0.3) in device.driver.calls)
    assert ("command", 0.2) not in device.driver.calls


def test_blocked_command_does_not_delay_the_stop_and_is_stopped_again_when_it_returns(make):
    device = make(period=0.01)
    device.driver.blocked = {"command"}
    device.command(np.array([0.1]), None)
    until(lambda: "command" in device.driver.names())
    device.stop()
    assert device.driver.names().count("stop") == 1
    device.driver.released.set()
    until(lambda: device.driver.names().count("stop") == 2)
    device.command(np.array([0.2]), None)
    assert ("command", 0.2) not in device.driver.calls, "after a stop, nothing is sent"


@pytest.mark.parametrize("how", ["blocked", "failing"])
def test_stop_takes_the_second_way(make, how):
    device = make(ArmWithSecondStop())
    setattr(device.driver, how, {"stop"})
    device.stop()
    assert device.driver.names()[-2:] == ["stop", "stop_otherwise"]


def test_blocked_stop_is_given_up_and_not_started_again(make):
    device = make(ArmWithSecondStop())
    device.driver.blocked, device.driver.failing = {"stop"}, {"stop_otherwise"}
    for _ in range(2):
        with pytest.raises(RobotLost, match="stop_otherwise fails"):
            device.stop()
    assert device.driver.names().count("stop") == 1
    device.driver.blocked = {"stop", "stop_otherwise"}
    device.driver.failing = set()
    with pytest.raises(RobotLost, match="the stop command has not returned for 300 ms: use its emergency stop"):
        device.stop()


def test_connection_that_blocks_is_an_error(monkeypatch):
    monkeypatch.setattr(device_thread, "CONNECT_TIMEOUT", 0.1)
    arm = Arm()
    arm.blocked = {"connect"}
    with pytest.raises(ConfigError, match=r"robot arm: connecting has taken 0.1 s"):
        DeviceThread(arm, 0.01, 0.1).connect()
    arm.released.set()


def test_close_that_fails_is_a_warning(make, caplog):
    device = make()
    device.driver.failing = {"close"}
    device.close()
    assert UNCLOSED.pop() is device
    assert "its connection does not close: robot arm: close fails" in caplog.text


def test_close_that_blocks_is_left_alone(make, monkeypatch, caplog):
    monkeypatch.setattr(device_thread, "CLOSE_TIMEOUT", 0.1)
    device = make()
    device.driver.blocked = {"close"}
    device.close()
    assert UNCLOSED.pop() is device
    assert "its connection does not close, and is left open" in caplog.text


def test_every_real_driver_is_called_from_a_thread_of_its_own():
    wanted = SimpleNamespace(settings=None, cameras=(), observations={}, task="tabletop/Reach")
    for name in robot_files():
        config = configs.load(name)
        if config.driver != "replay":
            driver = build(config, wanted, None)
            assert isinstance(driver, SimDriver if config.driver == "sim" else DeviceThread)
            driver.close()
