"""Two ways to start worker processes: an interpreter for each, or forks of one that has built what they share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import IO, Any, Protocol

from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.processes import python

# A new interpreter, not a fork of this process: safe with threads, CUDA and graphics drivers, and needs no `__main__` guard.
_START = "from rpd.envs.backends.subprocess import worker; worker.{entry}()"


class Process(Protocol):
    """A running worker."""

    pid: int

    def wait(self) -> int:
        """Wait for exit; returns the exit code, negative for a signal."""

    def kill(self) -> None:
        """Kill it with SIGKILL."""


class Starter(Protocol):
    """Strategy for starting workers."""

    def start(self, first: int, count: int, log: IO[bytes]) -> tuple[Process, Connection]:
        """Start the worker of environments `first` to `first + count - 1`; returns the process and our end of its pipe."""

    def close(self) -> None:
        """Release resources; called after the workers have exited."""


@dataclass
class Interpreters:
    """Starts each worker in a new interpreter that builds its own simulations.

    Attributes:
        module: module with `factory(**arguments) -> rpd.envs.backends.protocol.Factory`.
        arguments: arguments of `factory`, JSON values.
        environment: environment variables of the processes.
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
    """Builds the shared part of the simulations once in a template process and forks workers from it.

    Workers start immediately and use memory only for pages that they modify.

    Arguments as the attributes of `Interpreters`.

    Raises:
        ConfigError: raised by the factory.
        RunFault: the factory failed.
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

    def wait_for(self, pid: int) -> int:
        """Wait until a worker has exited; returns its exit code."""
        return self._ask({"wait_for": pid})["code"]

    def _ask(self, order: dict[str, Any]) -> Any:
        send(self._pipe, order)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return receive(self._pipe)
        except (EOFError, ConnectionError):
            raise RunFault(f"the process that forks the workers {exit_reason(self._template.wait(), self._log)}") from None


@dataclass
class _Fork:
    template: Forks
    pid: int
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self.template.wait_for(self.pid)
        return self.code

    def kill(self) -> None:
        if self.code is None:  # the process id cannot be reused before `wait_for`
            os.kill(self.pid, signal.SIGKILL)


def send(pipe: Connection, message: dict[str, Any]) -> None:
    """Send a JSON message."""
    pipe.send_bytes(json.dumps(message).encode())


def receive(pipe: Connection) -> Any:
    """Wait for an answer and decode it.

    Raises:
        ConfigError: the other process reported invalid input.
        RunFault: the other process failed; carries its message.
    """
    answer = json.loads(pipe.recv_bytes())
    if answer and "config_error" in answer:
        raise ConfigError(answer["config_error"])
    if answer and "fault" in answer:
        raise RunFault(answer["fault"])
    return answer


def exit_reason(code: int, log: IO[bytes]) -> str:
    """Describe how a process ended, with the last line of its log."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    log.seek(0)
    words = log.read().decode(errors="replace").strip().splitlines()
    return how + (f": {words[-1]}" if words else "")


def _interpreter(entry: str, memory: int, log: IO[bytes], environment: dict[str, str]) -> tuple[subprocess.Popen, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = subprocess.Popen(
        python(_START.format(entry=entry), str(theirs.fileno()), str(memory)),
        pass_fds=(theirs.fileno(), memory),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
    )
    theirs.close()
    return process, ours
