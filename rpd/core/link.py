"""Messages between the control loop and the processes that may die: the simulated robot, cameras, the policy.

A message is msgpack (`teachers.wire.codec`) behind its length, over a local socket. What arrives is taken in by a thread, so
that the loop never waits for a process that is not ready to be read from.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque

from envs.errors import ConfigError, RunFault
from teachers.wire.codec import MalformedMessage, Message, decode, encode

HEADER = struct.Struct("<I")
_START = "import sys; del sys.path[0]; import importlib; importlib.import_module({module!r}).main({handle})"


class LinkLost(RunFault):
    """The other side of a link is gone; the message names it."""


class Link:
    """One end of a socket.

    Attributes:
        name: of the other side, for messages.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        """Take over a connected stream socket."""
        self.name = name
        self._socket, self._sending = end, threading.Lock()
        self._inbox: deque[Message] = deque(maxlen=10_000)
        self._news = threading.Condition()
        self._lost: str | None = None
        threading.Thread(target=self._receive, daemon=True, name=f"link to {name}").start()

    @property
    def lost(self) -> str | None:
        """Why nothing comes any more, None as long as it may."""
        return self._lost

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            LinkLost: nobody is there.
        """
        data = encode(message)
        try:
            with self._sending:
                self._socket.sendall(HEADER.pack(len(data)) + data)
        except OSError as error:
            raise LinkLost(f"{self.name}: {self._lost or error}") from None

    def take(self, until: float | None = None) -> list[Message]:
        """Return the messages that have not been taken yet, oldest first.

        Args:
            until: `time.monotonic` up to which to wait for one; None: not at all.

        Raises:
            LinkLost: there are none, and none will come.
        """
        with self._news:
            while until is not None and not self._inbox and self._lost is None and (left := until - time.monotonic()) > 0:
                self._news.wait(min(left, 60.0))
            messages = list(self._inbox)
            self._inbox.clear()
        if not messages and self._lost is not None:
            raise LinkLost(f"{self.name}: {self._lost}")
        return messages

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self) -> None:
        try:
            while True:
                (size,) = HEADER.unpack(self._exactly(HEADER.size))
                message = decode(self._exactly(size))
                with self._news:
                    self._inbox.append(message)
                    self._news.notify_all()
        except EOFError:
            why = "is gone"
        except (OSError, MalformedMessage) as error:
            why = f"is gone ({error})"
        with self._news:
            self._lost = why
            self._news.notify_all()

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            count = self._socket.recv_into(view[have:])
            if not count:
                raise EOFError
            have += count
        return bytes(data)


class Child:
    """A process of ours, and the link to it. It ends when the link is closed.

    Attributes:
        link: to it.
        pid: of it.
    """

    def __init__(self, module: str, name: str, order: Message, timeout: float = 120.0) -> None:
        """Start `module`.main in an interpreter of its own, and wait until it is ready.

        Args:
            module: its `main` takes the file descriptor of its end of the link.
            name: for messages.
            order: what it shall be; it answers with ``{"ready": True, ...}``, or ``{"error": text}``.
            timeout: seconds.

        Raises:
            ConfigError: it cannot be what it shall be.
            RunFault: it ended, or is not ready in time.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            code = _START.format(module=module, handle=theirs.fileno())
            # A session of its own: Ctrl-C is for the loop, which stops the robot before it ends what it needs for that.
            command = [sys.executable, "-c", code]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.pid, self.link = self._process.pid, Link(ours, name)
        try:
            self.link.send(order)
            answers = self.link.take(time.monotonic() + timeout)
        except LinkLost:
            raise RunFault(f"{name}: ended while it started, with exit code {self._process.wait()}") from None
        if not answers:
            self.close()
            raise RunFault(f"{name}: not ready after {timeout:g} s")
        self.ready = answers[0]
        """What it said of itself."""
        if "error" in self.ready:
            self.close()
            raise ConfigError(f"{name}: {self.ready['error']}")

    def close(self) -> None:
        """End it."""
        self.link.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def parent(handle: int) -> Link:
    """The child's end of the link to its parent."""
    return Link(socket.socket(fileno=handle), "control loop")
