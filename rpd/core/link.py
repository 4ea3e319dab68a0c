"""Messages between the control loop and processes that may die: the simulated robot, cameras, the policy.

A message is msgpack (`rpd.teachers.transport.codec`) preceded by its length, over a local socket. A thread receives messages,
so the loop never waits for a process that is not ready.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque

from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.processes import python
from rpd.teachers.transport.codec import MalformedMessage, Message, decode, encode

HEADER = struct.Struct("<I")
_START = "import importlib; importlib.import_module({module!r}).main({handle})"


class LinkLost(RunFault):
    """The other end of a link is closed; the message names it."""


class Link:
    """One end of a socket.

    Attributes:
        name: name of the other end, for messages.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        """Take over a connected stream socket."""
        self.name = name
        end.settimeout(None)  # SDKs of robots change the default of the process: a link that is quiet would count as lost
        self._socket, self._sending = end, threading.Lock()
        self._inbox: deque[Message] = deque(maxlen=10_000)
        self._news = threading.Condition()
        self._lost: str | None = None
        threading.Thread(target=self._receive, daemon=True, name=f"link to {name}").start()

    @property
    def lost(self) -> str | None:
        """Reason why the link is closed; None while it is open."""
        return self._lost

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            LinkLost: the link is closed.
        """
        data = encode(message)
        try:
            with self._sending:
                self._socket.sendall(HEADER.pack(len(data)) + data)
        except OSError as error:
            raise LinkLost(f"{self.name}: {self._lost or error}") from None

    def take(self, until: float | None = None) -> list[Message]:
        """Return the messages received since the last call, oldest first.

        Args:
            until: wait for a message until this `time.monotonic`; None: do not wait.

        Raises:
            LinkLost: there are no messages and the link is closed.
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
        """Close the link."""
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
    """A child process and the link to it. The process ends when the link is closed.

    Attributes:
        link: the link to the process.
        pid: its process id.
    """

    def __init__(self, module: str, name: str, order: Message, timeout: float = 120.0) -> None:
        """Start `module`.main in a new interpreter, and wait until it is ready.

        Args:
            module: module whose `main` takes the file descriptor of its end of the link.
            name: name of the process, for messages.
            order: configuration message; the process replies ``{"ready": True, ...}`` or ``{"error": text}``.
            timeout: seconds.

        Raises:
            ConfigError: the process replied with an error.
            RunFault: the process ended, or was not ready in time.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = python(_START.format(module=module, handle=theirs.fileno()))
            # A new session: Ctrl-C must reach only the loop, which stops the robot before it ends the processes it needs.
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
        """Reply of the process."""
        if "error" in self.ready:
            self.close()
            raise ConfigError(f"{name}: {self.ready['error']}")

    def end(self, seconds: float) -> str | None:
        """Return how the process has ended, e.g. ``crashed (SIGSEGV)``; None if it runs after this time.

        Args:
            seconds: longest wait.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """End the process."""
        self.link.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def parent(handle: int) -> Link:
    """Return the child's end of the link to its parent."""
    return Link(socket.socket(fileno=handle), "control loop")
