"""Jobs as tasks of a Ray cluster: Ray decides on which node a process runs, and tries again when a node is lost.

A task gets text and returns an exit code; no policy, tensor or object of this project passes through Ray's object store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rpd.core.version import __version__
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.processes import empty_working_dir
from rpd.launch import attempts
from rpd.launch.attempt import request, run
from rpd.launch.job import INTERRUPTED, Ended, Job
from rpd.launch.node_check import look

CONNECT_S = 5.0
HTTP2, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", b"\4"
"""Start of a gRPC connection, and the type of the frame that the server answers."""
CHECK_S = 120.0
"""Time that the nodes have to answer a check, seconds: each starts a process first."""
READ_S = 1.0
"""Time between two looks at a file of attempts, seconds."""
WATCH_S = 30.0
"""Time between two looks at the cluster's nodes, seconds."""

LOG = logging.getLogger(__name__)


class RayJob:
    """A task of Ray; see `rpd.launch.base.Running`.

    Args:
        job: the job.
        retries: tries again when its node ends the process.
        watch: called while the task has not ended.
    """

    def __init__(self, job: Job, retries: int, watch: Callable[[Job], None]) -> None:
        self._job, self._retries, self._watch, self._stopping = job, retries, watch, False
        self._text = request(job, attempts.create(job))
        self._place, self._read_at = "", 0.0
        self._task = self._submit()

    def poll(self) -> Ended | None:
        """Return the end of the task, also of one that Ray has given up."""
        import ray

        if not ray.wait([self._task], timeout=0)[0]:
            self._watch(self._job)
            return None
        try:
            ended = Ended(*ray.get(self._task))
        except ray.exceptions.TaskCancelledError:
            return Ended(INTERRUPTED)
        except ray.exceptions.RayError as error:
            return Ended(1, _first_line(error))
        if ended.code == INTERRUPTED and not self._stopping and self._retries > 0:  # its node ends
            self._retries -= 1
            self._task = self._submit()
            return None
        return ended

    def place(self) -> str:
        """Return the node of the newest attempt."""
        if time.monotonic() - self._read_at > READ_S:
            self._place, self._read_at = attempts.read(self._job).place, time.monotonic()
        return self._place

    def stop(self) -> None:
        """Interrupt the task."""
        self._cancel(force=False)

    def kill(self) -> None:
        """End the task's worker; the command ends with it."""
        self._cancel(force=True)

    def _submit(self) -> Any:
        import ray

        remote = ray.remote(
            num_cpus=self._job.cpus,
            num_gpus=self._job.gpus or 0,
            max_retries=self._retries,
            scheduling_strategy="SPREAD",
        )
        return remote(run).options(name=self._job.name).remote(self._text)

    def _cancel(self, force: bool) -> None:
        import ray

        self._stopping = True
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.cancel(self._task, force=force)


class RayLauncher:
    """Runs jobs on a Ray cluster; see `rpd.launch.base.Launcher`. Connects at once.

    Args:
        address: "auto" for the cluster of this machine or of RAY_ADDRESS, ``host:port``, or ``ray://host:port``.
        retries: tries again of a job whose node is lost.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """

    poll_s = 0.5

    def __init__(self, address: str, retries: int) -> None:
        try:
            import ray
        except ImportError:
            raise missing_package("--launcher ray", "ray", "cluster") from None
        self._retries = retries
        self._watched_at, self._able = time.monotonic(), True
        where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        _check_port(where)
        try:
            with empty_working_dir():
                ray.init(address=where, log_to_driver=False, configure_logging=False)
        except (Exception, SystemExit) as error:  # Ray exits where its connection fails
            if where == "auto":
                raise ConfigError("no Ray cluster runs on this machine: give --launcher-address host:port") from None
            raise ConfigError(f"no Ray cluster at --launcher-address {where}: {_first_line(error)}") from None

    def check(self, jobs: Sequence[Job], folder: Path) -> None:
        """Check that some node has the resources, and that each such node shares the folder and has this version of rpd."""
        import ray

        job = jobs[0]
        nodes = [node for node in ray.nodes() if node["Alive"]]
        able = [node for node in nodes if _has(node, job)]
        if not able:
            cpus, gpus = (max((node["Resources"].get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU"))
            wanted = f"--cpus-per-run {job.cpus} --gpus-per-run {job.gpus or 0:g}"
            raise ConfigError(f"{wanted}: no node of the Ray cluster has them: at most {cpus:g} CPUs, {gpus:g} GPUs per node")
        token = folder.absolute() / f".launch-{uuid.uuid4().hex}"
        token.touch()
        try:
            problems = _asked(able, [str(token), os.getcwd(), __version__])
        finally:
            token.unlink()
        if problems:
            raise ConfigError(problems[0] + (f" (and {len(problems) - 1} other nodes)" if problems[1:] else ""))

    def at_once(self, job: Job) -> None:
        """Return None: Ray queues the jobs."""

    def start(self, job: Job, slot: int) -> RayJob:
        """Submit the job."""
        return RayJob(job, self._retries, self._watch)

    def close(self) -> None:
        """Disconnect."""
        import ray

        ray.shutdown()

    def _watch(self, job: Job) -> None:
        """Warn if the nodes with enough resources have gone: the jobs wait until one comes back."""
        import ray

        if time.monotonic() - self._watched_at < WATCH_S:
            return
        self._watched_at = time.monotonic()
        able = any(node["Alive"] and _has(node, job) for node in ray.nodes())
        if self._able and not able:
            LOG.warning("no node of the Ray cluster has the resources of a run any more: waiting for one")
        self._able = able


def _asked(nodes: Sequence[dict[str, Any]], words: list[str]) -> list[str]:
    """Run `look` on each node; returns the problems."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    tasks = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(*words): node
        for node in nodes
    }
    ray.wait(list(tasks), num_returns=len(tasks), timeout=CHECK_S)
    problems = []
    for task, node in tasks.items():
        name = f"Ray node {node['NodeManagerHostname']}"
        try:
            problem = ray.get(task, timeout=0)
        except ray.exceptions.GetTimeoutError:
            problem = f"does not answer within {CHECK_S:.0f} s"
        except ray.exceptions.RayError as error:
            problem = f"cannot run rpd: {_last_line(error)}"
        problems += [f"{name} {problem}"] if problem else []
    return problems


def _has(node: dict[str, Any], job: Job) -> bool:
    return all(node["Resources"].get(kind, 0) >= count for kind, count in (("CPU", job.cpus), ("GPU", job.gpus or 0)))


def _check_port(address: str) -> None:
    """Check that a gRPC server listens at an address: Ray's own attempt takes minutes, and ends the process.

    Raises:
        ConfigError: none does, or the text is no address.
    """
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname, parts.port or (10001 if "://" in address else 6379)
    except ValueError:
        host, port = None, 0
    if not host:
        raise ConfigError(f"--launcher-address {address}: give auto, host:port, or ray://host:port")
    try:
        with socket.create_connection((host, port), CONNECT_S) as connection:
            connection.sendall(HTTP2)
            answer = connection.recv(4)
    except OSError as error:
        raise ConfigError(f"no Ray cluster at --launcher-address {address}: {error.strerror or error}") from None
    if answer[3:] != SETTINGS and os.environ.get("RAY_USE_TLS") != "1":
        raise ConfigError(f"no Ray cluster at --launcher-address {address}: another kind of server answers")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
