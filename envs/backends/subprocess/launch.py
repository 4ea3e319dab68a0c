"""Two ways to start worker processes: an interpreter for each, or forks of one that has built what they share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import IO, Any, Protocol

from envs.errors import ConfigError, RunFault

# A fresh interpreter, and not a fork of ours: safe beside threads, CUDA and graphics drivers, and needs no `__main__` guard.
_START = "import sys; del sys.path[0]; from envs.workers import serve; serve.{entry}()"


class Process(Protocol):
    """A running worker."""

    pid: int

    def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""

    def kill(self) -> None:
        """End it at once."""


class Starter(Protocol):
    """A way to start workers."""

    def start(self, first: int, count: int, log: IO[bytes]) -> tuple[Process, Connection]:
        """Start the worker of environments `first` to `first + count - 1`; returns it and our end of its pipe."""

    def close(self) -> None:
        """Release what starting needs; called when the workers have ended."""


@dataclass
class Interpreters:
    """Every worker builds its simulations itself.

    Attributes:
        module: has `factory(**arguments) -> envs.simulation.Factory`.
        arguments: for it, JSON values.
        environment: variables that the processes need.
        memory: file descriptor of the shared memory.
    """

    module: str
    arguments: dict[str, Any]
    environment: dict[str, str]
    memory: int

    def start(self, first: int, count: int, log: IO[bytes]) -> tuple[Process, Connection]:
        """See `Starter`."""
        process, pipe = _interpreter("fresh", self.memory, log, self.environment)
        send(pipe, {"module": self.module, "arguments": self.arguments, "first": first, "count": count})
        return process, pipe

    def close(self) -> None:
        """See `Starter`."""


class Forks:
    """One interpreter builds what workers share and forks them: a worker starts at once, and costs only what it changes.

    Arguments as the attributes of `Interpreters`.

    Raises:
        ConfigError: whatever the factory refuses.
        RunFault: it failed.
    """

    def __init__(self, module: str, arguments: dict[str, Any], environment: dict[str, str], memory: int) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the template)
        self._template, self._pipe = _interpreter("template", memory, self._log, environment)
        try:
            self._ask({"module": module, "arguments": arguments})
        except BaseException:
            self._template.kill()
            self.close()
            raise

    def start(self, first: int, count: int, log: IO[bytes]) -> tuple[Process, Connection]:
        """See `Starter`."""
        ours, theirs = multiprocessing.Pipe()
        send(self._pipe, {"first": first, "count": count})
        for handle in (theirs.fileno(), log.fileno()):
            send_handle(self._pipe, handle, self._template.pid)
        theirs.close()
        return _Fork(self, self._receive()["pid"]), ours

    def close(self) -> None:
        """See `Starter`."""
        self._pipe.close()
        self._template.wait()
        self._log.close()

    def bury(self, pid: int) -> int:
        """Wait for the end of a worker; returns its exit code."""
        return self._ask({"bury": pid})["code"]

    def _ask(self, order: dict[str, Any]) -> Any:
        send(self._pipe, order)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return receive(self._pipe)
        except (EOFError, ConnectionError):
            raise RunFault(f"the process that forks the workers {obituary(self._template.wait(), self._log)}") from None


@dataclass
class _Fork:
    template: Forks
    pid: int
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self.template.bury(self.pid)
        return self.code

    def kill(self) -> None:
        if self.code is None:  # nobody else has its number before it is buried
            os.kill(self.pid, signal.SIGKILL)


def send(pipe: Connection, message: dict[str, Any]) -> None:
    """Send a message."""
    pipe.send_bytes(json.dumps(message).encode())


def receive(pipe: Connection) -> Any:
    """Wait for an answer.

    Raises:
        ConfigError: what was asked for does not exist.
        RunFault: the other side failed; the message is its own.
    """
    answer = json.loads(pipe.recv_bytes())
    if answer and "config_error" in answer:
        raise ConfigError(answer["config_error"])
    if answer and "fault" in answer:
        raise RunFault(answer["fault"])
    return answer


def obituary(code: int, log: IO[bytes]) -> str:
    """How a process ended, and its last words."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    log.seek(0)
    words = log.read().decode(errors="replace").strip().splitlines()
    return how + (f": {words[-1]}" if words else "")


def _interpreter(entry: str, memory: int, log: IO[bytes], environment: dict[str, str]) -> tuple[subprocess.Popen, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(entry=entry), str(theirs.fileno()), str(memory)],
        pass_fds=(theirs.fileno(), memory),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ
        | environment
        | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
    )
    theirs.close()
    return process, ours
