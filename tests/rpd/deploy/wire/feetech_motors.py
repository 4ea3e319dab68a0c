"""Six fake STS3215 motors on one bus: their registers and packets, as lerobot 0.4.4 and feetech-servo-sdk read them.

A packet: FF FF, motor, length, instruction or error, parameters, checksum. Addresses: `STS_SMS_SERIES_CONTROL_TABLE` of
LeRobot.
"""

import json
import struct
import time

import numpy as np

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
PING, READ, WRITE, SYNC_READ, SYNC_WRITE, EVERYONE = 1, 2, 3, 0x82, 0x83, 0xFE
LOWEST, HIGHEST, HOMING, TORQUE, GOAL, POSITION, STATUS = 9, 11, 31, 40, 42, 56, 65
FACTORY = {
    0: b"\x03\x0a",
    3: struct.pack("<H", 777),
    16: struct.pack("<H", 1000),
    21: b"\x20\x20\0",
    28: b"\xf4\1",
    36: b"\x50",
}
TURN = 4095 / (2 * np.pi)  # counts per rad, LeRobot's
VOLTAGE, OVERLOAD = 0x01, 0x20  # error bits
OFFSET, SIGN = np.radians([5.0, -8.0, 3.0, 0.0, 12.0]), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
"""LeRobot's angle of a joint q: sign q + offset."""
RANGE = [(700, 3396), (850, 3246), (900, 3196), (800, 3296), (0, 4095), (2020, 3480)]
HOMINGS = [-120, 85, 40, -300, 0, 1020]


def calibration():
    """LeRobot's calibration file of this arm."""
    entries = {
        name: {"id": i + 1, "drive_mode": 0, "homing_offset": HOMINGS[i], "range_min": RANGE[i][0], "range_max": RANGE[i][1]}
        for i, name in enumerate(MOTORS)
    }
    return json.dumps(entries)


def connection(shipped, folder):
    """Connection options of a robot file for this arm; writes its calibration into `folder`."""
    (folder / f"{shipped['id']}.json").write_text(calibration())
    zero = {"offset": np.degrees(OFFSET).tolist(), "sign": SIGN.tolist()}
    return {**shipped, **zero, "options": {**shipped["options"], "calibration_dir": str(folder)}}


class Motors:
    """Registers of the motors, and the arm that they move.

    Attributes:
        memory: registers by motor number, 1 to 6.
        torque_off: times (`time.monotonic`) at which a motor became slack.
        goals, last_goal: number of goals for several motors, and the time of the newest.
        errors: error bits by motor number.
    """

    def __init__(self, arm):
        self.arm = arm
        self.reset(torque=True)

    def reset(self, torque):
        """Calibrated motors as they come from the factory; or with the settings and the torque that LeRobot left."""
        self.memory = {i: bytearray(256) for i in range(1, 7)}
        self.torque_off, self.goals, self.last_goal, self.errors = [], 0, 0.0, {}
        for i, memory in self.memory.items():
            for address, data in FACTORY.items():
                memory[address : address + len(data)] = data
            homing = HOMINGS[i - 1]
            struct.pack_into("<HH", memory, LOWEST, *RANGE[i - 1])
            struct.pack_into("<H", memory, HOMING, abs(homing) | (0x800 if homing < 0 else 0))
            if torque:
                memory[21:24] = b"\x10\x20\0"
                memory[41], memory[85], memory[TORQUE] = 254, 254, 1
                struct.pack_into("<H", memory, GOAL, self._count(i))
        if torque:
            struct.pack_into("<H", self.memory[6], 16, 500)
            struct.pack_into("<H", self.memory[6], 28, 250)
            self.memory[6][36] = 25

    def answers(self, motor, instruction, data):
        """Answers to a packet: motor, error bits and data of each."""
        if instruction == SYNC_READ:
            address, size, *motors = data
            return [self._read(m, address, size) for m in motors if m in self.memory]
        if instruction == SYNC_WRITE:
            address, size = data[:2]
            if address == GOAL:
                self.goals, self.last_goal = self.goals + 1, time.monotonic()
            for at in range(2, len(data), size + 1):
                self._write(data[at], address, data[at + 1 : at + 1 + size])
            return []
        if motor not in self.memory:
            return []
        if instruction == READ:
            return [self._read(motor, *data)]
        if instruction == WRITE:
            self._write(motor, data[0], data[1:])
        else:
            assert instruction == PING, f"instruction {instruction:#x}"
        return [(motor, self.errors.get(motor, 0), b"")]

    def overload(self, motor, bits=OVERLOAD):
        """Set error bits of a motor; an overloaded one gives up its torque."""
        self.errors[motor] = bits
        if bits & OVERLOAD:
            self.memory[motor][TORQUE] = 0

    def _read(self, motor, address, size):
        memory = self.memory[motor]
        struct.pack_into("<H", memory, POSITION, self._count(motor))
        memory[STATUS] = self.errors.get(motor, 0)
        return motor, memory[STATUS], bytes(memory[address : address + size])

    def _write(self, motor, address, data):
        memory = self.memory[motor]
        before = memory[TORQUE]
        memory[address : address + len(data)] = data
        if before and not memory[TORQUE]:
            self.torque_off.append(time.monotonic())
        if address == GOAL or memory[TORQUE] > before:
            self._drive()

    def _drive(self):
        """Move the arm to the goals of the motors with torque; from a stale goal it jumps."""
        goals = [struct.unpack_from("<H", self.memory[i], GOAL)[0] for i in range(1, 7)]
        joints = np.array(self.arm.sensed.joints)
        for i in range(5):
            if self.memory[i + 1][TORQUE]:
                joints[i] = SIGN[i] * ((goals[i] - sum(RANGE[i]) / 2) / TURN - OFFSET[i])
        low, high = RANGE[5]
        opening = min(max((goals[5] - low) / (high - low), 0.0), 1.0) if self.memory[6][TORQUE] else None
        self.arm.drive(joints, opening)

    def _count(self, motor):
        """Measured position of a motor."""
        if motor == 6:
            low, high = RANGE[5]
            return round(low + self.arm.sensed.opening * (high - low))
        i = motor - 1
        angle = SIGN[i] * self.arm.sensed.joints[i] + OFFSET[i]
        return min(max(round(sum(RANGE[i]) / 2 + angle * TURN), 0), 4095)
