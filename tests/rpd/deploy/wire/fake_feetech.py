"""Process of the fake SO-101: its motors on a serial line, faults on the line, and orders of a test."""

import contextlib
import os
import pty
import select
import sys
import tempfile
import threading
import time
import tty
from pathlib import Path

from tests.rpd.deploy.wire.feetech_motors import MOTORS, SYNC_READ, VOLTAGE
from tests.rpd.deploy.wire.process import run

SLOW = 0.2  # s, of an answer with the fault "slow"
JUMP = 400  # counts, of the fault "jump"


class Line:
    """The serial line.

    Attributes:
        faults: active ones of: ``silent``; ``checksum``, of every answer; ``missing``, the elbow's motor; ``slow``; ``jump``, a
            wrong position of the elbow.
    """

    def __init__(self, path, motors):
        self.path, self.motors, self.faults = Path(path), motors, set()
        self.lost = False  # the next answer
        self._ends, self._lock = (), threading.Lock()
        self._number = 0  # of the line that is plugged in: a new one may have the same file descriptors
        self.plug()
        threading.Thread(target=self._run, daemon=True).start()

    def plug(self):
        """Plug in the line, if it is not."""
        with self._lock:
            if not self._ends:
                self._ends, self._number = pty.openpty(), self._number + 1
                tty.setraw(self._ends[1])
                self.path.unlink(missing_ok=True)
                self.path.symlink_to(os.ttyname(self._ends[1]))

    def unplug(self):
        with self._lock:
            for end in self._ends:
                os.close(end)
            self._ends = ()

    def _run(self):
        data, before = bytearray(), 0
        while True:
            with self._lock:
                end, number = self._ends[0] if self._ends else None, self._number
            if number != before:
                data.clear()
                before = number
            if end is None or not select.select([end], [], [], 0.01)[0]:
                time.sleep(0.001)
                continue
            with contextlib.suppress(OSError):
                data += os.read(end, 4096)
                self._take(end, data)

    def _take(self, end, data):
        """Obey the complete packets."""
        while len(data) >= 6:
            if data[:2] != b"\xff\xff":
                del data[0]
                continue
            size = data[3] + 4
            if len(data) < size:
                return
            packet = bytes(data[:size])
            del data[:size]
            if sum(packet[2:]) & 0xFF != 0xFF:
                continue
            number = self._number
            answers = self.motors.answers(packet[2], packet[4], packet[5:-1])
            self._send(end, number, packet, answers)

    def _send(self, end, number, packet, answers):
        if "silent" in self.faults or self.lost:
            self.lost = False
            return
        if "slow" in self.faults:
            time.sleep(SLOW)
        with self._lock:
            if self._ends and number == self._number:  # else the line was unplugged
                self._write(end, packet, answers)

    def _write(self, end, packet, answers):
        for motor, error, data in answers:
            if "missing" in self.faults and motor == 3:
                if packet[4] == SYNC_READ:
                    return  # the next motors wait for its turn
                continue
            if "jump" in self.faults and motor == 3 and len(data) == 2:
                data = int.to_bytes((int.from_bytes(data, "little") + JUMP) & 0xFFF, 2, "little")
            body = bytes([motor, len(data) + 2, error]) + data
            check = ~sum(body) & 0xFF ^ (0x0F if "checksum" in self.faults else 0)
            os.write(end, b"\xff\xff" + body + bytes([check]))


class Desk:
    """Orders of a test."""

    def __init__(self, arm, motors, line):
        self.arm, self.motors, self.line = arm, motors, line

    def begin(self, seed=0, torque=True):
        """Repair everything, and start the episode of a seed; with LeRobot's settings and torque, or slack."""
        faults, self.line.faults = self.line.faults, set()
        if "slow" in faults:
            self.line.unplug()  # with the answers that are still to come
            time.sleep(2 * SLOW)
        self.line.plug()
        self.arm.begin(seed)
        self.motors.reset(torque)

    def fault(self, name):
        """Begin a fault of `Line`, ``unplugged``, or of the elbow's motor: ``overload``, ``voltage``; returns its time."""
        now = time.monotonic()
        if name == "unplugged":
            self.line.unplug()
        elif name in ("overload", "voltage"):
            self.motors.overload(3, VOLTAGE if name == "voltage" else 0x20)
        else:
            self.line.faults = self.line.faults | {name}
        return now

    def set(self, motor, address, value):
        """Change a register of one byte."""
        self.motors.memory[MOTORS.index(motor) + 1][address] = value

    def state(self):
        """Joints, velocities, goals, torque, and the tracker's measurements."""
        sensed, motors = self.arm.sensed, self.motors
        return {
            "joints": sensed.joints.tolist(), "velocities": sensed.velocities.tolist(), "opening": sensed.opening,
            "success": sensed.success, "tracked": sensed.tracked, "commands": motors.goals, "last_command": motors.last_goal,
            "torque_off": motors.torque_off, "torque": [memory[40] for memory in motors.memory.values()],
        }  # fmt: skip

    def lose(self):
        """Lose the next answer."""
        self.line.lost = True


def main(task, robot):
    from tests.rpd.deploy.wire.arm import SimulatedArm
    from tests.rpd.deploy.wire.feetech_motors import Motors

    arm = SimulatedArm(task, robot)
    motors = Motors(arm)
    with tempfile.TemporaryDirectory() as folder:
        line = Line(f"{folder}/tty", motors)
        arm.start()
        run(str(line.path), Desk(arm, motors, line), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
