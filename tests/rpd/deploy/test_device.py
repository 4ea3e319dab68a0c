"""Calls of an SDK that block: the loop goes on, the state grows old, and the stop command takes a second way or is given up."""

import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rpd.core.link import Link
from rpd.deploy import config as configs
from rpd.deploy.robots import device
from rpd.deploy.robots.base import RobotLost, RobotSpec, RobotState
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.device import DeviceProcess
from rpd.deploy.robots.device_process import DeviceService
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


class InThread:
    """A `Child` whose service runs in a thread of the test, with the test's own arm."""

    def __init__(self, arm):
        ours, theirs = socket.socketpair()
        self.link, self._other = Link(ours, "driver"), Link(theirs, "control loop")
        self.ended = None
        self.service = DeviceService(self._other, arm)
        threading.Thread(target=self.service.run, daemon=True).start()

    def crash(self):
        self.ended = "crashed (SIGSEGV)"
        self._other.close()

    def end(self, seconds):
        return self.ended

    def close(self):
        self.link.close()


@pytest.fixture
def make(monkeypatch):
    """`make(arm, deadline)`: a connected `DeviceProcess` of an arm; its `driver` is the arm that is connected."""
    made = []

    def make(arm=None, deadline=PATIENT, period=2 * PATIENT):
        arm = arm or Arm()
        monkeypatch.setattr(device, "Child", lambda module, name, order: InThread(arm))
        config = configs.load("sim")
        watchdog = config.watchdog.model_copy(update={"observation_age": deadline})
        made.append(DeviceProcess(arm, config.model_copy(update={"rate": 1 / period, "watchdog": watchdog}), None))
        made[-1].connect()
        return made[-1]

    yield make
    for one in made:
        one.driver.blocked.clear()
        one.driver.failing.clear()
        one.driver.released.set()
        one.close()


def until(condition):
    end = time.monotonic() + PATIENT
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_calls_pass_through_and_errors_are_raised_at_once(make):
    robot = make()
    began = time.monotonic()
    assert began <= robot.read().time <= time.monotonic()
    robot.command(np.array([0.1]), None)
    robot.stop()
    assert robot.driver.names() == ["connect", "read", "command", "stop"]
    robot.driver.failing = {"read", "command", "stop"}
    for call in (robot.read, robot.stop):
        with pytest.raises(RobotLost, match=r"arm: (read|stop) fails"):
            call()


def test_refused_command_is_raised(make):
    robot = make()
    robot.driver.failing = {"command"}
    with pytest.raises(RobotLost, match="command fails"):
        robot.command(np.array([0.1]), None)


@pytest.mark.parametrize("call", ["read", "command"])
def test_blocked_call_lets_the_state_grow_old_and_is_named(make, call):
    robot = make(deadline=IMPATIENT, period=0.01)
    until(lambda: robot.read() and True)
    robot.driver.blocked = {call}
    began = time.monotonic()
    robot.command(np.array([0.1]), None)
    with pytest.raises(RobotLost, match=rf"robot arm: it does not answer: '{call}' of its SDK has not returned for \d+ ms"):
        while time.monotonic() < began + PATIENT:
            robot.read()
            time.sleep(0.001)


def test_only_the_newest_of_the_commands_that_wait_is_sent(make):
    robot = make(period=0.01)
    robot.driver.blocked = {"command"}
    for joint in (0.1, 0.2, 0.3):
        robot.command(np.array([joint]), None)
        until(lambda: "command" in robot.driver.names())
    waiting = robot._child.service._pending
    until(lambda: "command" in waiting and waiting["command"]["joints"] == 0.3)
    robot.driver.released.set()
    until(lambda: ("command", 0.3) in robot.driver.calls)
    assert ("command", 0.2) not in robot.driver.calls


def test_blocked_command_does_not_delay_the_stop_and_is_stopped_again_when_it_returns(make):
    robot = make(period=0.01)
    robot.driver.blocked = {"command"}
    robot.command(np.array([0.1]), None)
    until(lambda: "command" in robot.driver.names())
    robot.stop()
    assert robot.driver.names().count("stop") == 1
    robot.driver.released.set()
    until(lambda: robot.driver.names().count("stop") == 2)
    robot.command(np.array([0.2]), None)
    assert ("command", 0.2) not in robot.driver.calls, "after a stop, nothing is sent"


@pytest.mark.parametrize("how", ["blocked", "failing"])
def test_stop_takes_the_second_way(make, how):
    robot = make(ArmWithSecondStop())
    setattr(robot.driver, how, {"stop"})
    robot.stop()
    assert robot.driver.names()[-2:] == ["stop", "stop_otherwise"]


def test_blocked_stop_is_given_up_and_not_started_again(make):
    robot = make(ArmWithSecondStop())
    robot.driver.blocked, robot.driver.failing = {"stop"}, {"stop_otherwise"}
    for _ in range(2):
        with pytest.raises(RobotLost, match="stop_otherwise fails"):
            robot.stop()
    assert robot.driver.names().count("stop") == 1
    robot.driver.blocked = {"stop", "stop_otherwise"}
    robot.driver.failing = set()
    with pytest.raises(RobotLost, match="the stop command has not returned for 300 ms: use its emergency stop"):
        robot.stop()


def test_connection_that_blocks_is_an_error(make, monkeypatch):
    monkeypatch.setattr(device, "CONNECT_TIMEOUT", 0.1)
    arm = Arm()
    arm.blocked = {"connect"}
    with pytest.raises(ConfigError, match=r"robot arm: connecting has taken 0.1 s"):
        make(arm)


def test_crash_of_the_sdk_is_an_error_and_the_second_stop_needs_no_sdk(make):
    robot = make(ArmWithSecondStop())
    robot.read()
    robot._child.crash()
    until(lambda: robot._child.link.lost)
    for call in (robot.read, lambda: robot.command(np.array([0.1]), None)):
        with pytest.raises(RobotLost, match=r"robot arm: the process of its driver has crashed \(SIGSEGV\)"):
            call()
    robot.stop()
    assert robot.driver.names()[-1] in ("stop_otherwise", "close")  # the service closes the arm at its own time
    assert "stop_otherwise" in robot.driver.names()


def test_crash_without_a_second_stop_is_a_refused_stop(make):
    robot = make()
    robot._child.crash()
    with pytest.raises(RobotLost, match=r"crashed \(SIGSEGV\): use its emergency stop"):
        robot.stop()


def test_arm_is_stopped_and_closed_when_the_loop_is_gone(make):
    robot = make()
    robot.command(np.array([0.1]), None)
    robot._child.close()
    until(lambda: robot.driver.names()[-2:] == ["stop", "close"])


def test_arm_that_was_never_commanded_is_only_closed_when_the_loop_is_gone(make):
    robot = make()
    robot.read()
    robot._child.close()
    until(lambda: robot.driver.names() == ["connect", "read", "close"])


def test_error_of_the_sdk_itself_is_named(make, capfd):
    robot = make()
    robot.driver.read = lambda: 1 / 0
    with pytest.raises(RobotLost, match="ZeroDivisionError: division by zero"):
        robot.read()
    assert "Traceback" in capfd.readouterr().err


REAL = """
from dataclasses import replace
from tests.rpd.deploy import own_robots

class Mine(own_robots.OwnRobot):
    def __init__(self, config):
        super().__init__(config)
        self.spec = replace(self.spec, real=True)
"""


def test_driver_runs_in_a_process_of_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(REAL)
    config = configs.load("ur5e", f"{tmp_path}/mine.py:Mine").model_copy(update={"connection": {}})
    robot = build(config, None, None)
    try:
        robot.connect()
        before = robot.read()
        goal = before.joints + 0.1
        robot.command(goal, 0.5)
        until(lambda: np.allclose(robot.read().joints, goal))
        assert robot.read().gripper == 0.5 and robot.pid != os.getpid() and before.effort == 0.0
        os.kill(robot.pid, signal.SIGKILL)
        with pytest.raises(RobotLost, match=r"robot own: the process of its driver has (crashed \(SIGKILL\)|gone)"):
            until(lambda: not robot.read())
    finally:
        robot.close()


def test_close_that_fails_is_a_warning(make, caplog):
    robot = make()
    robot.driver.failing = {"close"}
    robot.close()
    assert "its connection does not close: robot arm: close fails" in caplog.text


def test_error_of_a_late_reading_is_not_that_of_closing(make, caplog):
    robot = make(period=0.01)
    robot.read()
    robot.driver.blocked = {"read"}
    robot.read()
    robot.stop()
    robot.driver.read = lambda: 1 / 0
    robot.read()
    robot.driver.released.set()
    robot.close()
    assert not caplog.records


def test_close_that_blocks_is_left_alone(make, monkeypatch, caplog):
    monkeypatch.setattr(device, "CLOSE_TIMEOUT", 0.1)
    robot = make()
    robot.driver.blocked = {"close"}
    robot.close()
    assert "its connection does not close: the process of its driver is ended" in caplog.text


def test_every_real_driver_is_called_in_a_process_of_its_own():
    wanted = SimpleNamespace(settings=None, cameras=(), observations={}, task="tabletop/Reach")
    for name in robot_files():
        config = configs.load(name)
        if config.driver != "replay":
            driver = build(config, wanted, None)
            assert isinstance(driver, SimDriver if config.driver in configs.SIMULATORS else DeviceProcess)
            driver.close()
