"""Processes that start at once: forks of an interpreter that has imported torch and rpd, which takes seconds."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
POLL_S = 0.02


class Process:
    """A started process, with the methods of `subprocess.Popen` that the tests use.

    Args:
        words: the command line behind ``python``: ``-m rpd ...``, or a file and its arguments.
        env: environment variables.
        cwd: working folder.
        log: file of its output.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.returncode: int | None = None
        self.pid: int = _ask({"words": list(words), "env": dict(env), "cwd": str(cwd), "log": str(log)})

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork of tests/warm_interpreter.py", timeout)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


@cache
def _interpreter() -> subprocess.Popen[str]:
    """The interpreter of this process, which ends with it. Torch reads its log level when it is imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command = [sys.executable, str(ROOT / "tests/warm_interpreter.py")]
    interpreter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
    atexit.register(interpreter.communicate)
    return interpreter


def begin() -> None:
    """Start the interpreter, if it does not run yet."""
    _interpreter()


def _ask(request: dict[str, Any]) -> Any:
    interpreter = _interpreter()
    assert interpreter.stdin is not None and interpreter.stdout is not None
    interpreter.stdin.write(json.dumps(request) + "\n")
    interpreter.stdin.flush()
    return json.loads(interpreter.stdout.readline())
