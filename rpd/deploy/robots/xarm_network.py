"""Stop an xArm without its SDK, over a connection of its own: the controller takes commands from several at a time.

Requests as in ``xarm/core/wrapper/uxbus_cmd_tcp.py`` of xarm-python-sdk 1.18: number, protocol, length, command, data; the
answer repeats the command, and adds a status.
"""

from __future__ import annotations

import socket
import struct
import time

CONTROL = 502
"""Port of the commands."""
STOP = 4
"""State of an arm that was stopped."""
HALTED = {
    3: "paused, at the pendant or by a safeguard",
    4: "by a stop command",
    5: "by a stop command",
    6: "decelerating to a stop",
}
"""States in which the arm does not follow commands. After a pause it would move at once to the newest command."""
STOP_CHECK = 0.1
"""Longest wait for the arm to have stopped, s."""
_HEADER = struct.Struct(">HHH")
_PROTOCOL, _SET_STATE, _GET_STATE, _INVALID = 2, 12, 13, 0x08


def stop(host: str, timeout: float) -> None:
    """Stop the arm, and see whether it obeys.

    Args:
        host: address of the controller.
        timeout: longest wait for each answer, s.

    Raises:
        OSError: no answer, a wrong one, or the arm does not stop.
    """
    with socket.create_connection((host, CONTROL), timeout) as end, end.makefile("rb") as answers:

        def ask(number: int, command: int, data: bytes) -> bytes:
            end.sendall(_HEADER.pack(number, _PROTOCOL, 1 + len(data)) + bytes([command]) + data)
            header = answers.read(_HEADER.size)
            body = answers.read(_HEADER.unpack(header)[2]) if len(header) == _HEADER.size else b""
            if len(body) < 2:
                raise OSError("the connection is closed")
            if body[0] != command:
                raise OSError("an answer to another request")
            if body[1] & _INVALID:
                raise OSError("refused")
            return body[2:]

        ask(1, _SET_STATE, bytes([STOP]))
        until, number = time.monotonic() + STOP_CHECK, 2
        while (state := ask(number, _GET_STATE, b"")[:1]) not in {bytes([halted]) for halted in HALTED}:
            if time.monotonic() > until:
                raise OSError(f"it is in state {state.hex()} after set_state")
            number += 1
            time.sleep(0.005)
