"""Servers of the fake UR: data stream (RTDE), dashboard, scripts, and a Robotiq gripper's URCap.

Faults on the wire are names in `Faults.active`: ``stall`` (the stream ends, its sockets stay), ``silent`` (also the dashboard
does not answer, and nothing is read), ``late`` (packages arrive `LATE` s after they were measured), ``nan`` (a joint that is no
number), ``jump`` (a joint that is far away), ``gripper silent``, ``gripper wrong``.
"""

import contextlib
import socket
import struct
import time
from collections import deque

import numpy as np

from tests.rpd.deploy.wire.process import serve

RTDE = 30004
RATE = 250.0  # packages per second
LATE = 1.0  # s
HEADER = struct.Struct(">HB")
VERSION, PROTOCOL, OUTPUTS, INPUTS, START, PAUSE, DATA = 118, 86, 79, 73, 83, 80, 85
CODES = {"DOUBLE": "d", "UINT32": "I", "INT32": "i", "UINT64": "Q", "VECTOR3D": "3d", "VECTOR6D": "6d", "VECTOR6INT32": "6i"}
VECTORS = ("target_q", "target_m", "target_c", "actual_q", "actual_c", "joint_", "actual_joint", "actual_TCP", "target_TCP",
           "ft_raw", "payload_inertia", "external_force")  # fmt: skip


def kind(name):
    """RTDE type of a variable."""
    if name in ("robot_mode", "safety_mode") or "_int_register" in name:
        return "INT32"
    if name in ("runtime_state", "robot_status_bits", "safety_status_bits"):
        return "UINT32"
    if name.endswith("_bits"):
        return "UINT64"
    if name == "joint_mode":
        return "VECTOR6INT32"
    if name in ("actual_tool_accelerometer", "payload_cog"):
        return "VECTOR3D"
    return "VECTOR6D" if name.startswith(VECTORS) else "DOUBLE"


class Faults:
    """Names of the active faults."""

    def __init__(self):
        self.active = set()

    def wait_until_it_answers(self):
        while "silent" in self.active:
            time.sleep(0.01)


class Stream:
    """The RTDE server; `send` is called in every cycle of the controller."""

    def __init__(self, host, controller, faults):
        self.controller, self.faults, self.clients = controller, faults, []
        serve((host, RTDE), lambda end: Client(end, self).run())

    def reset(self):
        """Reset every connection."""
        for client in list(self.clients):
            client.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.end.shutdown(socket.SHUT_RDWR)
            client.end.close()

    def send(self):
        values = self.measure()
        for client in list(self.clients):
            client.send(values)

    def measure(self):
        controller, sensed = self.controller, self.controller.arm.sensed
        joints = sensed.joints.copy()
        if "nan" in self.faults.active:
            joints[1] = np.nan
        if "jump" in self.faults.active:
            joints[1] += 1.0
        return {
            "timestamp": time.monotonic() - controller.began,
            "actual_q": joints,
            "actual_qd": sensed.velocities,
            "runtime_state": controller.runtime,
            "safety_status_bits": controller.safety,
            "robot_status_bits": 1 | 2 * (controller.runtime == 2),
            "output_int_register_0": controller.answer,
        }


class Client:
    """A connection to the RTDE server."""

    def __init__(self, end, stream):
        self.end, self.stream, self.started = end, stream, False
        self.outputs, self.inputs, self.late = ([], None), {}, deque()

    def run(self):
        self.stream.clients.append(self)
        try:
            with self.end.makefile("rb") as received:
                while len(header := received.read(HEADER.size)) == HEADER.size:
                    length, order = HEADER.unpack(header)
                    payload = received.read(length - HEADER.size)
                    self.stream.faults.wait_until_it_answers()
                    self.take(order, payload)
        finally:
            self.stream.clients.remove(self)

    def take(self, order, payload):
        if order == DATA:
            names, shape = self.inputs.get(payload[0], ((), struct.Struct("")))
            if names and len(payload) == 1 + shape.size:  # ur_rtde sends others while it reconnects
                self.stream.controller.receive(names, shape.unpack(payload[1:]))
        elif order in (OUTPUTS, INPUTS):
            names = [name for name in payload[8 if order == OUTPUTS else 0 :].decode().strip("\0").split(",") if name]
            recipe = names, struct.Struct(">" + "".join(CODES[kind(name)] for name in names))
            number = 1 if order == OUTPUTS else len(self.inputs) + 1
            if order == OUTPUTS:
                self.outputs = recipe
            else:
                self.inputs[number] = recipe
            self.answer(order, bytes([number]) + ",".join(map(kind, names)).encode())
        elif order == VERSION:
            self.answer(order, struct.pack(">4I", 5, 15, 0, 0))
        else:
            self.answer(order, b"\1")
            self.started = {START: True, PAUSE: False}.get(order, self.started)

    def answer(self, order, payload):
        self.end.sendall(HEADER.pack(HEADER.size + len(payload), order) + payload)

    def send(self, values):
        if not self.started:
            return
        names, shape = self.outputs
        flat = []
        for name in names:
            size = {"VECTOR3D": 3, "VECTOR6D": 6, "VECTOR6INT32": 6}.get(kind(name), 1)
            value = values.get(name, [0] * size)
            flat.extend(value if size > 1 or isinstance(value, list) else [value])
        self.late.append((time.monotonic(), b"\1" + shape.pack(*flat)))
        faults = self.stream.faults.active
        wait = LATE if "late" in faults else 0.0
        with contextlib.suppress(OSError):
            while self.late and self.late[0][0] <= time.monotonic() - wait:
                package = self.late.popleft()[1]
                if not faults & {"stall", "silent"}:
                    self.answer(DATA, package)


def serve_dashboard(host, controller, faults):
    """The dashboard server: what ur_rtde asks, and ``stop``."""

    def answer(line):
        if line == "stop":
            controller.stop("dashboard")
            return "Stopped"
        known = {"PolyscopeVersion": "URSoftware 5.15.0.1234567 (Jan 01 2024)", "get serial number": "20235500001",
                 "is in remote control": "true"}  # fmt: skip
        return known.get(line, f"could not understand: '{line}'")

    def handle(end):
        faults.wait_until_it_answers()
        end.sendall(b"Connected: Universal Robots Dashboard Server\n")
        with end.makefile("rb") as lines:
            for line in lines:
                faults.wait_until_it_answers()
                end.sendall(answer(line.decode().strip()).encode() + b"\n")

    serve((host, 29999), handle)


def serve_scripts(host, controller):
    """The port for scripts: the control script of ur_rtde starts once its last line has arrived."""

    def handle(end):
        script = b""
        while part := end.recv(65536):
            script += part
            if script.startswith(b"def rtde_control") and script.endswith(b"\nend\n"):
                controller.play()
                script = b""

    serve((host, 30003), handle)


def serve_gripper(host, arm, faults):
    """The URCap of a Robotiq gripper."""

    def handle(end):
        with end.makefile("rb") as lines:
            for line in lines:
                words = line.decode().split()
                while "gripper silent" in faults.active:
                    time.sleep(0.01)
                if words[:2] == ["SET", "POS"]:
                    arm.drive(opening=1 - int(words[2]) / 255)
                answer = f"POS {round(255 * (1 - min(max(arm.sensed.opening, 0.0), 1.0)))}" if words[0] == "GET" else "ack"
                end.sendall(b"?" if "gripper wrong" in faults.active else answer.encode())

    serve((host, 63352), handle)
