"""Several servers of one policy on one machine: processes that are started, restarted and ended together."""

from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rpd.core import children
from rpd.envs.errors import ConfigError, RunFault
from rpd.serve.status import READY

LOG = logging.getLogger(__name__)
RESTARTS, PERIOD = 3, 60.0
"""A replica that ends more often than this within so many seconds is not started again."""
WILDCARDS = ("0.0.0.0", "[::]")


class Line(NamedTuple):
    """A line that a replica printed."""

    replica: int
    text: str


class Ended(NamedTuple):
    """The exit of a replica."""

    replica: int
    code: int


class Stop(NamedTuple):
    """SIGINT or SIGTERM."""


@dataclass
class _Replica:
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    url: str | None = None
    restarts: deque[float] = field(default_factory=deque)
    """Times of its last restarts, s."""


class Replicas:
    """Servers as child processes, which end with this process.

    The first one starts alone, so that bad input is reported once.

    Args:
        commands: command line of each server, after ``rpd``, with its port and device; port 0: any free one.
    """

    def __init__(self, commands: Sequence[list[str]]) -> None:
        self._replicas = [_Replica(list(command)) for command in commands]
        self._events: queue.SimpleQueue[Line | Ended | Stop] = queue.SimpleQueue()
        self._is_announced = False

    def run(self) -> int:
        """Serve until SIGINT or SIGTERM; returns the exit code: that of a server that does not start, as of bad input.

        Raises:
            RunFault: a server ended again and again.
        """
        previous = {s: signal.signal(s, lambda *_: self._events.put(Stop())) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start(0)
            while True:
                event = self._events.get()
                if isinstance(event, Stop):
                    return 0
                if isinstance(event, Line):
                    self._read(event)
                elif not self._is_announced and event.code > 0:
                    return event.code  # it has printed the reason
                else:
                    self._restart(event)
        finally:
            self._end()
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _start(self, index: int) -> None:
        replica = self._replicas[index]
        process = children.start(replica.command, subprocess.PIPE, own_session=True)  # Ctrl-C reaches this process alone
        replica.process = process
        threading.Thread(target=self._forward, args=(index, process), daemon=True).start()
        threading.Thread(target=lambda: self._events.put(Ended(index, process.wait())), daemon=True).start()

    def _forward(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._events.put(Line(index, line.decode("utf-8", "replace").rstrip("\n")))

    def _read(self, line: Line) -> None:
        """Print a line of a server; start the others after the first, and print the reference when all are ready."""
        replica = self._replicas[line.replica]
        LOG.info(f"replica {line.replica}: {line.text}")
        if replica.url is not None or not line.text.startswith(READY):
            return
        replica.url = _reachable(line.text.split()[-1])
        replica.command = _with_port(replica.command, replica.url)
        if line.replica == 0:
            for index in range(1, len(self._replicas)):
                self._start(index)
        if all(other.url is not None for other in self._replicas):
            self._is_announced = True
            LOG.info(f"all {len(self._replicas)} replicas are ready: remote:{','.join(str(r.url) for r in self._replicas)}")

    def _restart(self, ended: Ended) -> None:
        replica, now = self._replicas[ended.replica], time.monotonic()
        while replica.restarts and now - replica.restarts[0] > PERIOD:
            replica.restarts.popleft()
        how = f"signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"exit code {ended.code}"
        name = f"replica {ended.replica}{f' ({replica.url})' if replica.url else ''} ended with {how}"
        if len(replica.restarts) == RESTARTS:
            raise RunFault(f"{name}, for the {RESTARTS + 1}th time within {PERIOD:g} s: the other replicas end too")
        replica.restarts.append(now)
        LOG.warning(f"{name}: started again ({len(replica.restarts)} of {RESTARTS} times within {PERIOD:g} s)")
        self._start(ended.replica)

    def _end(self) -> None:
        """End all servers after their current requests; at once on a second signal."""
        running = [r.process for r in self._replicas if r.process is not None and r.process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            while process.poll() is None:
                try:
                    event = self._events.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(event, Line):
                    LOG.info(f"replica {event.replica}: {event.text}")
                elif isinstance(event, Stop):
                    for other in running:
                        other.kill()


def check_ports(host: str, port: int, replicas: int) -> None:
    """Check that the ports of all replicas are free.

    Args:
        host: address to listen on.
        port: the first port; 0: any.
        replicas: number of ports.

    Raises:
        ConfigError: names the port that is taken, or ports that do not exist.
    """
    if port == 0:
        return
    if port + replicas - 1 > 65535:
        raise ConfigError(f"--port {port} with --replicas {replicas}: ports end at 65535: at most --port {65536 - replicas}")
    for number in range(port, port + replicas):
        try:
            socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{number}: {error.strerror or error}") from None


def devices(device: str, replicas: int) -> list[str]:
    """Device of each replica: the GPUs in turn, unless one is chosen; replicas that share a GPU are logged.

    Args:
        device: option of the user: auto, cpu, cuda or cuda:INDEX.
        replicas: number of replicas.
    """
    if device not in ("auto", "cuda") or (gpus := _gpus()) == 0:
        return [device] * replicas
    if replicas > gpus:
        LOG.info(f"{replicas} replicas share {gpus} GPU{'s' if gpus > 1 else ''}")
    return [f"cuda:{i % gpus}" for i in range(replicas)]


def _gpus() -> int:
    """Number of GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def _reachable(url: str) -> str:
    """Address for clients: the name of this machine for a server that listens on all of its addresses."""
    host, _, port = url.removeprefix("ws://").rpartition(":")
    return f"ws://{socket.gethostname()}:{port}" if host in WILDCARDS else url


def _with_port(command: list[str], url: str) -> list[str]:
    """Command line with the port of an address, so that a restarted server has the same one."""
    words = list(command)
    if "--port" in words:
        at = words.index("--port")
        words = [*words[:at], *words[at + 2 :]]
    return [*words, "--port", url.rpartition(":")[2]]
