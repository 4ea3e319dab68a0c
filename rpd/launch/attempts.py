"""The text file next to a job's log with its attempts: where and when each began and how it ended.

The launcher creates it with a token, and an attempt checks the token: a node that does not share the folder is found before
it runs anything. Each line is JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpd.core.files import write_text
from rpd.launch.job import Ended, Job


@dataclass(frozen=True)
class History:
    """Contents of the file.

    Attributes:
        token: token of the launcher; empty without a file.
        hosts: host of each attempt, in order.
        ends: end of each attempt that has ended, in order.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    ends: tuple[Ended, ...] = ()

    @property
    def place(self) -> str:
        """Host of the newest attempt; empty if none has begun."""
        number = len(self.hosts)
        return "" if not number else self.hosts[-1] if number == 1 else f"{self.hosts[-1]} (attempt {number})"


def path_of(job: Job) -> Path:
    """File of a job's attempts."""
    return job.log.with_name(f"{job.log.stem}.attempts")


def create(job: Job) -> str:
    """Create a job's file and its log; returns the token."""
    token = secrets.token_hex(8)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.touch()
    write_text(path_of(job), json.dumps({"token": token}) + "\n")
    return token


def record_start(job: Job) -> None:
    """Append that an attempt begins here."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    _append(job, {"host": socket.gethostname(), "pid": os.getpid(), "time": when})


def record_end(job: Job, ended: Ended) -> None:
    """Append that the attempt has ended."""
    _append(job, {"code": ended.code, "problem": ended.problem})


def read(job: Job) -> History:
    """Read a job's file; empty without one."""
    try:
        lines = path_of(job).read_text(errors="replace").splitlines()
    except OSError:
        return History()
    records = list[dict[str, Any]]()
    for line in lines:
        with contextlib.suppress(ValueError):  # cut off: its node was lost
            records.append(json.loads(line))
    return History(
        next((r["token"] for r in records if "token" in r), ""),
        tuple(r["host"] for r in records if "host" in r),
        tuple(Ended(r["code"], r["problem"]) for r in records if "code" in r),
    )


def _append(job: Job, record: dict[str, Any]) -> None:
    file = os.open(path_of(job), os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{json.dumps(record)}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
