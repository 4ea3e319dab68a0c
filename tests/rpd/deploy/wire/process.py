"""A fake controller as a process of its own, which outlives `rpd`; and orders to it over a socket."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from rpd.core import realtime

ROOT = Path(__file__).resolve().parents[4]


class Fake:
    """The process of a fake controller.

    Attributes:
        host: address at which its SDK finds it.
        orders: path of the socket that takes orders, see `Orders`.
    """

    def __init__(self, module, task, robot):
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.rpd.deploy.wire.{module}", task, robot], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        ready = self._process.stdout.readline()
        assert ready, "the fake controller has ended"
        self.host, self.orders = json.loads(ready)
        self._orders = Orders(self.orders)

    def ask(self, do, **rest):
        """Give an order to the fake's desk; returns its answer."""
        return self._orders.ask(do, **rest)

    def close(self):
        self._orders.close()
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Orders:
    """A connection for orders: of a test, and of a driver with a tracker."""

    def __init__(self, path):
        self._end = socket.socket(socket.AF_UNIX)
        self._end.settimeout(60)
        self._end.connect(path)
        self._lines = self._end.makefile("rwb")

    def ask(self, do, **rest):
        self._lines.write(json.dumps({"do": do, **rest}).encode() + b"\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def close(self):
        with contextlib.suppress(OSError):
            self._lines.close()
        self._end.close()


def serve(address, handle):
    """Call `handle(socket)` in a thread for every connection; returns the listening socket."""
    if isinstance(address, str):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address)
        listening.listen()
    else:
        listening = socket.create_server(address)

    def guarded(end):
        with contextlib.suppress(OSError), end:
            handle(end)

    def accept():
        while True:
            end = listening.accept()[0]
            if end.family == socket.AF_INET:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded, args=(end,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listening


def free_address(port):
    """An address of this computer whose `port` is free: SDKs know no other port of their controllers."""
    for number in range(os.getpid(), os.getpid() + 1000):
        host = f"127.{10 + number // 250 % 240}.{number % 250}.1"
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return host
    raise OSError(f"no address with a free port {port}")


def run(host, desk, folder):
    """Take orders for the methods of `desk` until the parent ends."""

    def handle(end):
        with end.makefile("rwb") as lines:
            for line in lines:
                order = json.loads(line)
                lines.write(json.dumps(getattr(desk, order.pop("do"))(**order)).encode() + b"\n")
                lines.flush()

    sys.setswitchinterval(5e-4)  # answers must not wait for a turn of the physics
    realtime.enable_realtime(realtime.ROBOT)
    path = f"{folder}/orders"
    serve(path, handle)
    print(json.dumps([host, path]), flush=True)
    sys.stdin.read()
