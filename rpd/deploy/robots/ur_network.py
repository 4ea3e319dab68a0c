"""Connections to a Universal Robots controller without its SDK, each with a timeout: dashboard server and data stream."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

DASHBOARD, RTDE = 29999, 30004
"""Ports of the dashboard server and of the data stream."""
_HEADER = struct.Struct(">HB")  # length with header, type
_VERSION, _OUTPUTS, _START, _DATA = 86, 79, 83, 85


def dashboard(host: str, command: str, timeout: float) -> str:
    """Send a command to the dashboard server; returns its answer.

    Args:
        host: address of the controller.
        command: e.g. ``"stop"``.
        timeout: longest wait for each answer, s.

    Raises:
        OSError: no answer.
    """
    with socket.create_connection((host, DASHBOARD), timeout) as end, end.makefile("rb") as lines:
        lines.readline()  # greeting
        end.sendall(command.encode() + b"\n")
        answer = lines.readline()
    if not answer:
        raise OSError("the dashboard server has closed the connection")
    return answer.decode("ascii", "replace").strip()


def check_stream(host: str, timeout: float) -> None:
    """Receive one package of the data stream.

    ur_rtde waits for it without a limit, and holds Python's global lock while it does: even Ctrl-C has no effect.

    Raises:
        OSError: the controller does not send one.
    """
    orders = ((_VERSION, struct.pack(">H", 2)), (_OUTPUTS, struct.pack(">d", 125.0) + b"timestamp"), (_START, b""))
    try:
        with socket.create_connection((host, RTDE), timeout) as end, end.makefile("rb") as stream:
            for kind, payload in orders:
                end.sendall(_HEADER.pack(_HEADER.size + len(payload), kind) + payload)
                _receive(stream.read, kind)
            _receive(stream.read, _DATA)
    except TimeoutError:
        raise OSError(f"its data stream (port {RTDE}) does not answer within {timeout:g} s") from None


def _receive(read: Callable[[int], bytes], kind: int) -> None:
    """Read packages up to the next one of a kind."""
    received = None
    while received != kind:
        header = read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise OSError(f"port {RTDE} has closed the connection")
        length, received = _HEADER.unpack(header)
        read(max(0, length - _HEADER.size))
