"""One attempt at a job, on the node where it runs. Only text arrives, and an exit code leaves.

Whether the job starts or continues is decided here, when the attempt begins, from the files that the earlier attempt left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rpd.core import children
from rpd.launch import attempts
from rpd.launch.job import INTERRUPTED, NOT_STARTED, Ended, Job
from rpd.students.io.locks import is_locked

POLL_S = 0.2
SHARED_S = 30.0
"""Time that a network file system has to show a new file, seconds."""
LOCK_S = 300.0
"""Time that the lock of a lost node may remain, seconds; a lease of NFS lasts 90 s."""

_running: list[subprocess.Popen[bytes]] = []


def request(job: Job, token: str) -> str:
    """Text of an attempt that the driver sends to a node.

    Args:
        job: the job.
        token: token of its file of attempts.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith("RPD_") and name != children.TETHER}
    there = replace(
        job,
        log=job.log.absolute(),
        begun=tuple(path.absolute() for path in job.begun),
        lock=job.lock and job.lock.absolute(),
    )
    return json.dumps({"job": there.to_json(), "token": token, "cwd": os.getcwd(), "env": passed})


def run(text: str) -> tuple[int, str]:
    """Run an attempt to its end.

    A `KeyboardInterrupt` asks the command to save a checkpoint and end. The command ends with this process.

    Args:
        text: see `request`.

    Returns:
        Exit code and problem, see `rpd.launch.job.Ended`.
    """
    asked = json.loads(text)
    job, cwd = Job.from_json(asked["job"]), Path(asked["cwd"])
    if problem := _unshared(job, asked["token"], cwd):
        return NOT_STARTED, problem
    _heed_interrupts()
    attempts.record_start(job)
    try:
        _until(lambda: job.lock is None or not is_locked(job.lock), LOCK_S)
        hidden = {} if job.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        where = asked["env"] | job.environment() | hidden
        with job.log.open("ab") as log:
            process = children.start(job.command(), log, where, own_session=True, cwd=cwd, fresh=True)
        _running.append(process)
        ended = wait(process)
        _running.remove(process)
    except KeyboardInterrupt:  # before the start
        ended = Ended(INTERRUPTED)
    attempts.record_end(job, ended)
    return ended.code, ended.problem


def _heed_interrupts() -> None:
    """Let SIGINT interrupt, by which Ray cancels, also in a worker of a cluster that a shell started in the background."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def wait(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for a command; on `KeyboardInterrupt`, end it by SIGTERM, which saves a checkpoint.

    Not SIGINT: the processes of a Ray worker ignore it.
    """
    stopping = False
    while (code := _poll(process)) is None:
        stopping = True
        with contextlib.suppress(KeyboardInterrupt):
            process.terminate()
    if stopping and code != 0:
        return Ended(INTERRUPTED)
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):  # its node ends
        return Ended(INTERRUPTED)
    return Ended(code, f"ended by signal {-code} on {socket.gethostname()}" if code < 0 else "")


def stop(seconds: float) -> None:
    """End the command of this process, with a checkpoint; may be called in a signal handler.

    Args:
        seconds: the longest time to wait for it.
    """
    for process in _running:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)  # without a limit, it could wait for the call that the signal has interrupted


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the exit code; None after a `KeyboardInterrupt`. Not one long wait: Ray interrupts only between two of them."""
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return None
    return code


def _unshared(job: Job, token: str, cwd: Path) -> str:
    """Problem with the folders that this node and the driver have to share; empty if there is none."""
    host = socket.gethostname()
    if not cwd.is_dir():
        return f"{host} has no folder {cwd}: start from a folder that every node has"
    if not _until(lambda: attempts.read(job).token == token, SHARED_S):
        return f"{host} does not share {job.log.parent}: choose a results folder on a file system of all nodes"
    return ""


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, at most some time; returns whether it does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return holds
