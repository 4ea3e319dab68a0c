"""Robotiq gripper on a Universal Robot: the text protocol of its URCap, one command per line."""

from __future__ import annotations

import socket
import threading

PORT, TIMEOUT = 63352, 1.0
CLOSED = 255  # counts; 0 is open
SPEED, FORCE = 255, 50  # counts of 255


class Robotiq:
    """A connection for one thread at a time.

    Raises:
        OSError: the gripper does not answer; applies to every method.
    """

    def __init__(self, host: str, port: int = PORT) -> None:
        """Connect and activate; the first activation after power-on opens and closes the gripper."""
        self._socket = socket.create_connection((host, port), TIMEOUT)
        self._lock = threading.Lock()
        for name, value in (("ACT", 1), ("GTO", 1), ("SPE", SPEED), ("FOR", FORCE)):
            self._line(f"SET {name} {value}")

    def move(self, opening: float) -> None:
        """Move to an opening in [0, 1]."""
        self._line(f"SET POS {round(CLOSED * (1 - opening))}")

    def opening(self) -> float:
        """Return the current opening, in [0, 1]."""
        answer = self._line("GET POS").split()
        if len(answer) != 2 or answer[0] != "POS" or not answer[1].isdecimal():
            raise OSError(f"the gripper answers {' '.join(answer)!r}")
        return 1 - int(answer[1]) / CLOSED

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _line(self, text: str) -> str:
        with self._lock:
            self._socket.sendall(text.encode() + b"\n")
            answer = self._socket.recv(1024)
        if not answer:
            raise OSError("the gripper has closed the connection")
        return answer.decode("ascii", "replace").strip()
