"""The fake controller of an xArm: its states, its answers to commands, and its reports, as xarm-python-sdk 1.18.4 reads them.

Numbers of commands: `XCONF.UxbusReg` of the SDK. Numbers of states: 1 moves, 2 waits, 3 paused, 4 stopped.
"""

import math
import struct
import threading
import time

import numpy as np

VERSION, SERIAL, ENABLE, SET_STATE, GET_STATE, QUEUE, GET_ERROR, CLEAR, SET_MODE = 1, 2, 11, 12, 13, 14, 15, 16, 19
SERVO_JOINTS, JOINTS, GRIPPER, TOOL_WRITE, TOOL_READ = 29, 42, 124, 127, 128
MOVES, WAITS, PAUSED, STOPPED = 1, 2, 3, 4
SERVO = 1  # mode
HAS_ERROR, NOT_READY, INVALID = 0x40, 0x10, 0x08  # bits of an answer
FIRMWARE = b"6,6,XF1300,AC1300,v2.5.0"
BAUD = 11  # index of 2,000,000 baud, which the SDK expects of the gripper
WIDE_OPEN = 850
TARGET, POSITION, ERROR = 0x0700, 0x0702, 0x000F  # registers of the gripper
REPORT = 417  # bytes


class Controller:
    """State of the controller; may be called from any thread.

    Attributes:
        stops: how and when (`time.monotonic`) the arm was stopped, oldest first.
        commands, last_command: number of servo commands, and the time of the newest.
        refuses: answer to stop commands: ``invalid``, or ``silently`` without an effect; None: obey.
    """

    def __init__(self, arm):
        self.arm, self._lock = arm, threading.Lock()
        self.reset()

    def reset(self):
        """A controller that has just been switched on."""
        self.mode, self.state, self.error, self.refuses = 0, STOPPED, 0, None
        self.stops, self.commands, self.last_command = [], 0, 0.0
        self.current = 0.4  # A, of the strongest motor

    def halt(self, how, state=STOPPED, error=0):
        """Stop the arm; it brakes and holds."""
        with self._lock:
            if self.state in (MOVES, WAITS):
                self.stops.append((how, time.monotonic()))
                self.arm.hold()
            self.state, self.error = state, error

    def answer(self, command, data):
        """Status byte and data of the answer to a command."""
        if command == SET_STATE:
            return self._set_state(data[0])
        if command == SERVO_JOINTS:
            return self._servo(struct.unpack("<7f", data[:28]))
        status = HAS_ERROR if self.error else 0
        if command == SET_MODE:
            self.mode = data[0]
        elif command == CLEAR:
            self.error = 0
        elif command == GET_STATE:
            return status, bytes([self._moving()])
        elif command == GET_ERROR:
            return status, bytes([self.error, 0])
        elif command in (VERSION, SERIAL):
            return status, FIRMWARE.ljust(40, b"\0")
        elif command == QUEUE:
            return status, b"\0\0"
        elif command == JOINTS:
            sensed = self.arm.sensed
            states = np.zeros((3, 7), "<f4")
            states[0, :6], states[1, :6] = sensed.joints, sensed.velocities
            return status, states.tobytes()[: 28 * (data[0] & 15 if data else 1)]
        elif command == TOOL_READ:
            return status, struct.pack(">i", BAUD)
        elif command == GRIPPER:
            return status, self._gripper(data)
        return status, b""

    def report(self):
        """A report of the port 30002."""
        sensed, size = self.arm.sensed, 7
        data = bytearray(REPORT)
        struct.pack_into(">IBH", data, 0, REPORT, self._moving() | self.mode << 4, 0)
        struct.pack_into("<7f", data, 7, *sensed.joints, 0)
        data[87:91] = (0x7F, 0x7F, self.error, 0)
        data[131:133] = (3, 3)
        data[145:151] = (6, 6, 1, 1, 1, 1)
        struct.pack_into("<10f", data, 181, 1000, 1, 50000, 0.1, 1000, 20, 0.01, 20, 0.0001, 4)
        struct.pack_into(f"<{size}f", data, 355, self.current, *[0.1] * (size - 1))
        return bytes(data)

    def _moving(self):
        if self.state in (MOVES, WAITS):
            return MOVES if time.monotonic() - self.last_command < 0.1 else WAITS
        return self.state

    def _set_state(self, state):
        if state >= STOPPED and self.refuses:
            return (INVALID if self.refuses == "invalid" else 0), b""
        if state >= STOPPED:
            self.halt("set_state")
        elif self.error == 0:
            self.state = WAITS if state == 0 else state
        return HAS_ERROR if self.error else 0, b""

    def _servo(self, joints):
        with self._lock:
            if self.mode != SERVO or self.state not in (MOVES, WAITS):
                return NOT_READY | (HAS_ERROR if self.error else 0), b""
            assert all(math.isfinite(joint) for joint in joints)
            self.commands, self.last_command = self.commands + 1, time.monotonic()
            self.arm.drive(np.array(joints[:6]))
            return 0, b""

    def _gripper(self, data):
        """Answer of the gripper on the RS-485 line: host, device, function, and registers."""
        function, register = data[2], struct.unpack(">H", data[3:5])[0]
        if function == 0x10:
            if register == TARGET:
                self.arm.drive(opening=min(max(struct.unpack(">i", data[8:12])[0] / WIDE_OPEN, 0.0), 1.0))
            return data[:7]
        if register == POSITION:
            return data[:3] + b"\4" + struct.pack(">i", round(self.arm.sensed.opening * WIDE_OPEN))
        assert register == ERROR, f"register {register:#x}"
        return data[:3] + b"\2\0\0"
