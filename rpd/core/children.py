"""Start other `rpd` commands as child processes that end with this one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from rpd.envs.processes import fresh_python, python

TETHER = "RPD_TETHER"
"""Environment variable with the file descriptor of a pipe that closes when the parent ends for any reason."""


def start(
    words: Sequence[str],
    log: IO[Any] | int | None = None,
    env: Mapping[str, str] | None = None,
    own_session: bool = False,
    cwd: Path | None = None,
    fresh: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command with this process's import path.

    Args:
        words: the command line, after ``rpd``.
        log: file of its output; `subprocess.PIPE`: a pipe for its output, without its errors; None: this process's own output.
        env: additional environment variables.
        own_session: start a new session, so Ctrl-C does not reach the process.
        cwd: working folder; None: this process's.
        fresh: use the import path of a new interpreter, see `fresh_python`.
    """
    tether = _tether()
    command = fresh_python if fresh else python
    return subprocess.Popen(
        command("from rpd.cli.main import main; sys.exit(main())", *words),
        stdout=log, stderr=None if log in (None, subprocess.PIPE) else subprocess.STDOUT, start_new_session=own_session,
        env={**os.environ, **(env or {}), TETHER: str(tether)}, pass_fds=(tether,), cwd=cwd,
    )  # fmt: skip


def follow_parent() -> None:
    """When the parent ends, send this process SIGTERM, which saves a checkpoint. No effect unless started by `start`."""
    if (handle := os.environ.pop(TETHER, None)) is not None:
        threading.Thread(target=_follow, args=(int(handle),), daemon=True, name="tether").start()


def _follow(handle: int) -> None:
    try:
        os.read(handle, 1)  # blocks until the pipe closes: nothing is ever written
    except OSError:  # not open: a stale variable
        return
    os.kill(os.getpid(), signal.SIGTERM)


@cache
def _tether() -> int:
    """Read end of the pipe for children; the write end closes with this process."""
    theirs, _ = os.pipe()
    return theirs
