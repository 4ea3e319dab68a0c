"""Process of the fake UR, started by ``Fake("fake_ur", task, "ur5e")``; its ports are fixed, so it has its own address."""

import sys
import tempfile
import threading
import time

from tests.rpd.deploy.wire import process
from tests.rpd.deploy.wire.arm import SimulatedArm
from tests.rpd.deploy.wire.ur_controller import Controller
from tests.rpd.deploy.wire.ur_servers import RATE, RTDE, Faults, Stream, serve_dashboard, serve_gripper, serve_scripts


class Desk:
    """Orders of a test."""

    def __init__(self, arm, controller, stream, faults):
        self.arm, self.controller, self.stream, self.faults = arm, controller, stream, faults

    def begin(self, seed=0):
        """Repair everything, and start the episode of a seed."""
        self.faults.active = set()
        self.controller.reset()
        self.arm.begin(seed)

    def fault(self, name):
        """Begin a fault on the wire (`ur_servers.Faults`), or ``reset`` the connections, or stop the arm: ``protective``,
        ``safeguard``, ``emergency``, or by a person at the ``pendant``; returns its time."""
        now = time.monotonic()
        if name == "reset":
            self.stream.reset()
        elif name == "pendant":
            self.controller.stop("pendant")
        elif name in ("protective", "safeguard", "emergency"):
            self.controller.set_safety(name)
        else:
            self.faults.active.add(name)
        return now

    def state(self):
        sensed, controller = self.arm.sensed, self.controller
        return {
            "joints": sensed.joints.tolist(), "velocities": sensed.velocities.tolist(), "opening": sensed.opening,
            "success": sensed.success, "tracked": sensed.tracked, "stops": controller.stops, "commands": controller.commands,
            "last_command": controller.last_command,
        }  # fmt: skip


def cycle(controller, stream):
    due = time.monotonic()
    while True:
        controller.cycle()
        stream.send()
        due = max(due + 1 / RATE, time.monotonic() - 0.1)
        time.sleep(max(0.0, due - time.monotonic()))


def main(task, robot):
    host, faults, arm = process.free_address(RTDE), Faults(), SimulatedArm(task, robot)
    controller = Controller(arm)
    stream = Stream(host, controller, faults)
    serve_dashboard(host, controller, faults)
    serve_scripts(host, controller)
    serve_gripper(host, arm, faults)
    arm.start()
    threading.Thread(target=cycle, args=(controller, stream), daemon=True, name="controller").start()
    with tempfile.TemporaryDirectory(prefix="rpd-ur-") as folder:
        process.run(host, Desk(arm, controller, stream, faults), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
