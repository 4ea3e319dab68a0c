"""Robotiq gripper on a Universal Robot: the text protocol of its URCap, one command per line."""

from __future__ import annotations

import socket
import threading

PORT, TIMEOUT = 63352, 1.0  # s, for connecting and activating
CLOSED = 255  # counts; 0 is open
SPEED, FORCE = 255, 50  # counts of 255


class Robotiq:
    """A connection for one thread at a time.

    Raises:
        OSError: the gripper does not answer; applies to every method.
    """

    def __init__(self, host: str, port: int = PORT, timeout: float = TIMEOUT) -> None:
        """Connect and activate; the first activation after power-on opens and closes the gripper.

        Args:
            host: address of the controller.
            port: port of the URCap.
            timeout: longest wait for an answer once the gripper is active, s.
        """
        self._socket = socket.create_connection((host, port), TIMEOUT)
        self._lock = threading.Lock()
        for name, value in (("ACT", 1), ("GTO", 1), ("SPE", SPEED), ("FOR", FORCE)):
            self._line(f"SET {name} {value}")
        self._socket.settimeout(timeout)

    def move(self, opening: float) -> None:
        """Move to an opening in [0, 1]."""
        if (answer := self._line(f"SET POS {round(CLOSED * (1 - opening))}")) != "ack":
            raise OSError(f"the gripper answers {answer!r}")

    def opening(self) -> float:
        """Return the current opening, in [0, 1]."""
        answer = self._line("GET POS").split()
        if len(answer) != 2 or answer[0] != "POS" or not answer[1].isdecimal() or int(answer[1]) > CLOSED:
            raise OSError(f"the gripper answers {' '.join(answer)!r}")
        return 1 - int(answer[1]) / CLOSED

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _line(self, text: str) -> str:
        try:
            with self._lock:
                self._socket.sendall(text.encode() + b"\n")
                answer = self._socket.recv(1024)
        except TimeoutError:
            raise OSError("the gripper does not answer") from None
        if not answer:
            raise OSError("the gripper has closed the connection")
        return answer.decode("ascii", "replace").strip()
