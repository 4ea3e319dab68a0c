"""Process of the fake xArm: the ports of its controller, faults on the wire, and orders of a test."""

import contextlib
import socket
import struct
import sys
import tempfile
import threading
import time

from tests.rpd.deploy.wire.process import free_address, run, serve

CONTROL, REPORTS = 502, 30002
REPORT_PERIOD = 0.2  # s
SLOW = 0.5  # s, of an answer with the fault "slow"
HEAD = struct.Struct(">HHH")
HEARTBEAT = 1  # protocol number


class Wire:
    """Connections of SDKs.

    Attributes:
        faults: active ones of: ``stall`` no answers and no reports; ``motion stall`` no answers on the oldest connection;
            ``report stall`` no reports; ``slow``; ``wrong answers``, to another command; ``gripper silent``.
    """

    def __init__(self, host, controller):
        self.controller, self.faults = controller, set()
        self._controls, self._reports, self._lock = [], [], threading.Lock()
        serve((host, CONTROL), self._control)
        serve((host, REPORTS), self._report)

    def reset(self, oldest=False):
        """Reset all connections, or the oldest that takes commands."""
        with self._lock:
            for end in self._controls[:1] if oldest else [*self._controls, *self._reports]:
                with contextlib.suppress(OSError):  # the SDK has closed it
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _listed(self, ends, end):
        with self._lock:
            ends.append(end)
        try:
            yield
        finally:
            with self._lock:
                ends.remove(end)

    def _control(self, end):
        with self._listed(self._controls, end), end.makefile("rb") as requests:
            while head := requests.read(HEAD.size):
                number, protocol, size = HEAD.unpack(head)
                body = requests.read(size)
                if protocol != HEARTBEAT:
                    self._answer(end, number, protocol, body)

    def _answer(self, end, number, protocol, body):
        command = body[0]
        status, data = self.controller.answer(command, body[1:]) if not self._deaf(end) else (0, b"")
        if self._mute(end, command):
            return
        if "slow" in self.faults:
            time.sleep(SLOW)
        if "wrong answers" in self.faults:
            command ^= 0x55
        end.sendall(HEAD.pack(number, protocol, 2 + len(data)) + bytes([command, status]) + data)

    def _deaf(self, end):
        return "stall" in self.faults or ("motion stall" in self.faults and end is self._controls[0])

    def _mute(self, end, command):
        return self._deaf(end) or ("gripper silent" in self.faults and command == 124)

    def _report(self, end):
        with self._listed(self._reports, end):
            while True:
                if not self.faults & {"stall", "report stall"}:
                    end.sendall(self.controller.report())
                time.sleep(REPORT_PERIOD)


class Desk:
    """Orders of a test."""

    def __init__(self, arm, controller, wire):
        self.arm, self.controller, self.wire = arm, controller, wire

    def begin(self, seed=0):
        """Repair everything, and start the episode of a seed."""
        faults, self.wire.faults = self.wire.faults, set()
        if "slow" in faults:
            time.sleep(2 * SLOW)  # requests that wait belong to the run before
        self.controller.reset()
        self.arm.begin(seed)

    def fault(self, name):
        """Begin a fault; returns its time: those of `Wire`, of a stop command, and of the arm itself."""
        now, controller = time.monotonic(), self.controller
        at_the_arm = {
            "reset": self.wire.reset, "motion reset": lambda: self.wire.reset(oldest=True),
            "pause": lambda: controller.halt("pause", state=3), "pendant": lambda: controller.halt("pendant"),
            "collision": lambda: controller.halt("error 31", error=31),
            "emergency": lambda: controller.halt("error 2", error=2),
            "refused stop": lambda: setattr(controller, "refuses", "invalid"),
            "ignored stop": lambda: setattr(controller, "refuses", "silently"),
            "contact": lambda: setattr(controller, "current", 9.0),
        }  # fmt: skip
        if name in at_the_arm:
            at_the_arm[name]()
        else:
            self.wire.faults = self.wire.faults | {name}
        return now

    def state(self):
        """Joints, velocities, stops, commands, and the tracker's measurements."""
        sensed, controller = self.arm.sensed, self.controller
        return {
            "joints": sensed.joints.tolist(), "velocities": sensed.velocities.tolist(), "opening": sensed.opening,
            "success": sensed.success, "tracked": sensed.tracked, "stops": controller.stops, "commands": controller.commands,
            "last_command": controller.last_command, "state": controller.state,
        }  # fmt: skip


def main(task, robot):
    from tests.rpd.deploy.wire.arm import SimulatedArm
    from tests.rpd.deploy.wire.xarm_controller import Controller

    arm, host = SimulatedArm(task, robot), free_address(CONTROL)
    controller = Controller(arm)
    wire = Wire(host, controller)
    arm.start()
    with tempfile.TemporaryDirectory() as folder:
        run(host, Desk(arm, controller, wire), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
