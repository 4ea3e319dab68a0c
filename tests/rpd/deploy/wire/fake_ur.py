"""Process of the fake UR, and its handle for tests: ``FakeUR(task)`` starts it, on an address of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
BENCH = 40404  # port of the orders of tests


class FakeUR:
    """The process. Ports of a UR are fixed, so every fake has an address of its own in 127.0.0.0/8.

    Attributes:
        host: its address.
    """

    def __init__(self, task="tabletop/PushCube", robot="ur5e", module="tests.rpd.deploy.wire.fake_ur"):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, task, robot], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        ready = self._process.stdout.readline()
        assert ready, "the fake controller has ended"
        self.host = json.loads(ready)["host"]
        self._bench = Bench(self.host)

    def ask(self, do, **rest):
        """Give an order, see `Desk`; returns its answer."""
        return self._bench.ask(do, **rest)

    def close(self):
        self._bench.close()
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Bench:
    """A connection for orders; also for a driver with a tracker."""

    def __init__(self, host):
        self._end = socket.create_connection((host, BENCH), 30)
        self._end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._end.makefile("rwb")

    def ask(self, do, **rest):
        self._lines.write(json.dumps({"do": do, **rest}).encode() + b"\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def close(self):
        with contextlib.suppress(OSError):
            self._lines.close()
        self._end.close()


class Desk:
    """Orders of a test to the fake."""

    def __init__(self, arm, controller, stream, faults):
        self.arm, self.controller, self.stream, self.faults = arm, controller, stream, faults

    def begin(self, seed=0):
        """Repair everything, and start the episode of a seed."""
        self.faults.active = set()
        self.controller.reset()
        self.arm.begin(seed)

    def fault(self, name):
        """Add a fault on the wire, or ``reset`` the connections, or stop by ``protective``, ``safeguard``, ``emergency``, or
        by a person at the ``pendant``; returns its time."""
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
        """Joints, velocities, stops, and commands."""
        sensed, controller = self.arm.sensed, self.controller
        return {
            "joints": sensed.joints.tolist(), "velocities": sensed.velocities.tolist(), "opening": sensed.opening,
            "success": sensed.success, "tracked": sensed.tracked, "stops": controller.stops, "commands": controller.commands,
            "last_command": controller.last_command, "runtime": controller.runtime,
        }  # fmt: skip

    def handle(self, end):
        with end.makefile("rwb") as lines:
            for line in lines:
                order = json.loads(line)
                answer = getattr(self, order.pop("do"))(**order)
                lines.write(json.dumps(answer).encode() + b"\n")
                lines.flush()


def free_address(port):
    """An address of this computer at which a port is free."""
    for number in range(os.getpid(), os.getpid() + 1000):
        host = f"127.{10 + number // 250 % 200}.{number % 250}.1"
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return host
    raise OSError(f"no address with a free port {port}")


def main(task, robot):
    from tests.rpd.deploy.wire.arm import SimulatedArm
    from tests.rpd.deploy.wire.ur_controller import Controller
    from tests.rpd.deploy.wire.ur_servers import RATE, Faults, Stream, serve, serve_dashboard, serve_gripper, serve_scripts

    host, faults, arm = free_address(30004), Faults(), SimulatedArm(task, robot)
    controller = Controller(arm)
    stream = Stream(host, controller, faults)
    serve_dashboard(host, controller, faults)
    serve_scripts(host, controller)
    serve_gripper(host, arm, faults)
    serve(host, BENCH, Desk(arm, controller, stream, faults).handle)
    arm.start()
    print(json.dumps({"host": host}), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with its parent
    due = time.monotonic()
    while True:
        controller.cycle()
        stream.send()
        due = max(due + 1 / RATE, time.monotonic() - 0.1)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:])
