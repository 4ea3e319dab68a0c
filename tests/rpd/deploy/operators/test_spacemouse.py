"""The SpaceMouse through the real pyspacemouse, fed with HID reports of a SpaceMouse Compact."""

import struct
import time
from collections import deque

import numpy as np
import pytest

from rpd.deploy.operators import spacemouse
from rpd.deploy.operators.spacemouse import SpaceMouse
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import RobotState
from rpd.envs.errors import ConfigError

pyspacemouse = pytest.importorskip("pyspacemouse")
TRANSLATION, ROTATION, BUTTONS = 1, 2, 3


class Device:
    """A HID device with a queue of reports."""

    def __init__(self):
        self.reports = deque()

    def read(self, size):
        report = self.reports.popleft() if self.reports else b""
        if isinstance(report, Exception):
            raise report
        return bytearray(report)

    def close(self):
        pass

    def send(self, number, *values):
        self.reports.append(bytes([number]) + (bytes(values) if number == BUTTONS else struct.pack("<3h", *values)))
        until = time.monotonic() + 5
        while self.reports and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.01)


@pytest.fixture
def hid():
    return Device()


@pytest.fixture
def operator(hid):
    info = pyspacemouse.get_device_specs()["SpaceMouseCompact"]
    info = pyspacemouse.apply_axis_convention(info, pyspacemouse.AxisConvention.ROS)
    operator = SpaceMouse(0.5, pyspacemouse.SpaceMouseDevice(info, hid))
    yield operator
    operator.close()


def act(operator, opening=1.0):
    return operator.action(RobotState(time.monotonic(), np.zeros(7), np.zeros(7), opening), True, None)


def test_cap_takes_over_and_returns_control_after_its_rest(operator, hid, monkeypatch):
    assert act(operator) is None
    hid.send(TRANSLATION, 350, 0, 0)  # HID: x to the right, y toward the person, z down
    np.testing.assert_allclose(act(operator).motion, [0, -0.5, 0, 0, 0, 0], atol=1e-6)
    hid.send(TRANSLATION, 0, -175, -350)
    np.testing.assert_allclose(act(operator).motion, [0.25, 0, 0.5, 0, 0, 0], atol=1e-6)
    hid.send(TRANSLATION, 0, 20, 0)  # off its center
    assert not act(operator).motion.any()
    time.sleep(spacemouse.REST)
    assert act(operator) is None


def test_newest_of_many_reports_counts(operator, hid):
    hid.reports.extend(bytes([TRANSLATION]) + struct.pack("<3h", 0, -i, 0) for i in range(1, 301))
    hid.send(ROTATION, 0, 0, -350)
    np.testing.assert_allclose(act(operator).motion, [0.5 * 300 / 350, 0, 0, 0, 0, 0.5], atol=1e-6)


def test_left_button_switches_the_gripper_and_the_right_one_keeps_control(operator, hid):
    hid.send(BUTTONS, 1)
    assert act(operator, opening=0.0).gripper_open is True
    assert act(operator, opening=0.0).gripper_open is True
    hid.send(BUTTONS, 2)
    time.sleep(spacemouse.REST)
    assert act(operator) is not None


def test_lost_device_stops_the_robot(operator, hid):
    hid.reports.append(OSError("Failed to read from HID device: -1"))
    time.sleep(0.1)
    with pytest.raises(Stop, match="the SpaceMouse is gone: Failed to read"):
        act(operator)


def test_missing_device_is_named():
    with pytest.raises(ConfigError, match="--operator spacemouse: "):
        SpaceMouse(0.5)
