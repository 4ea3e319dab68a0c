"""The gamepad through the real SDL, with its own virtual gamepad: pygame has no function for it, the library it loads has."""

import ctypes
import sys
import time

import numpy as np
import pytest

from rpd.deploy.operators.gamepad import Gamepad
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import RobotState
from rpd.envs.errors import ConfigError

pytest.importorskip("pygame")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds SDL in /proc")
LEFT_X, LEFT_Y, RIGHT_X, RIGHT_Y = range(4)
A, B, RIGHT_SHOULDER, UP = 0, 1, 10, 11  # SDL_GameControllerButton
GAMEPAD = 1  # SDL_JOYSTICK_TYPE_GAMECONTROLLER


def state(opening=1.0):
    return RobotState(time.monotonic(), np.zeros(7), np.zeros(7), opening)


class VirtualPad:
    """A gamepad in the SDL that pygame has loaded."""

    def __init__(self):
        with open("/proc/self/maps") as maps:
            self.sdl = ctypes.CDLL(next(line.split()[-1] for line in maps if "libSDL2-2" in line))
        self.sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self.index = self.sdl.SDL_JoystickAttachVirtual(GAMEPAD, 6, 15, 0)
        self.stick = ctypes.c_void_p(self.sdl.SDL_JoystickOpen(self.index))

    def axis(self, number, value):
        self.sdl.SDL_JoystickSetVirtualAxis(self.stick, number, ctypes.c_int16(value))

    def button(self, number, down):
        self.sdl.SDL_JoystickSetVirtualButton(self.stick, number, ctypes.c_uint8(down))

    def unplug(self):
        if self.index is not None:
            self.sdl.SDL_JoystickDetachVirtual(self.index)
            self.index = None


@pytest.fixture
def pad():
    with pytest.raises(ConfigError, match="no gamepad is connected"):
        Gamepad(0.5)  # loads SDL
    pad = VirtualPad()
    yield pad
    pad.unplug()


@pytest.fixture
def operator(pad):
    operator = Gamepad(0.5)
    yield operator
    operator.close()


def test_shoulder_button_takes_over_while_it_is_held(pad, operator):
    pad.axis(LEFT_Y, -32768)
    assert operator.action(state(), True, None) is None
    pad.button(RIGHT_SHOULDER, 1)
    action = operator.action(state(), True, None)
    np.testing.assert_allclose(action.motion, [0.5, 0, 0, 0, 0, 0], atol=1e-4)
    assert action.gripper_open is None
    pad.button(RIGHT_SHOULDER, 0)
    assert operator.action(state(), True, None) is None


def test_sticks_and_cross_move_about_the_axes_of_the_base(pad, operator):
    pad.button(RIGHT_SHOULDER, 1)
    pad.axis(LEFT_X, 32767)
    pad.axis(RIGHT_X, -16384)
    pad.axis(RIGHT_Y, 2000)  # within the dead zone
    pad.button(UP, 1)
    motion = operator.action(state(), True, None).motion
    np.testing.assert_allclose(motion, [0, -0.5, 0, 0, 0.5, 0.5 * (0.5 - 0.1) / 0.9], atol=1e-4)


def test_gripper_button_switches_once_per_press(pad, operator):
    pad.button(RIGHT_SHOULDER, 1)
    operator.action(state(), True, None)
    pad.button(A, 1)
    assert operator.action(state(), True, None).gripper_open is False
    assert operator.action(state(), True, None).gripper_open is False
    pad.button(A, 0)
    operator.action(state(), True, None)
    pad.button(A, 1)
    assert operator.action(state(), True, None).gripper_open is True


def test_stop_button_and_lost_gamepad_stop_the_robot(pad, operator):
    pad.button(B, 1)
    with pytest.raises(Stop, match="emergency stop: button B"):
        operator.action(state(), True, None)
    pad.unplug()
    with pytest.raises(Stop, match="the gamepad is gone"):
        operator.action(state(), True, None)
