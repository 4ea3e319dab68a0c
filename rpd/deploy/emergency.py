"""Emergency stop by a person: a key, a file, or a signal."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rpd.envs.errors import ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Emergency:
    """A context in which any key, the stop file, Ctrl-C or a signal requests a stop; call it to poll.

    Args:
        file: stop file; its existence requests a stop.

    Raises:
        ConfigError: the file already exists.
    """

    def __init__(self, file: Path) -> None:
        if file.exists():
            raise ConfigError(f"emergency stop: {file} exists: remove it, or name another --estop-file")
        self._file = str(file)
        self._signal: str | None = None
        self._terminal: list[Any] | None = None
        self._press: Callable[[str], str] = lambda typed: typed
        self._before: dict[int, Any] = {}

    def share_keys(self, press: Callable[[str], str]) -> None:
        """Pass typed characters to a function; those that it returns request a stop."""
        self._press = press

    def __call__(self) -> str | None:
        """Reason to stop, or None."""
        if self._signal is not None:
            return f"emergency stop: {self._signal}"
        if os.path.exists(self._file):
            return f"emergency stop: {self._file} exists"
        if self._terminal is not None and select.select([sys.stdin], [], [], 0)[0]:
            typed = os.read(sys.stdin.fileno(), 1024).decode(errors="replace")
            if not typed or self._press(typed):  # nothing: the terminal is gone
                return "emergency stop: a key"
        return None

    def __enter__(self) -> Emergency:
        for signum in SIGNALS:
            self._before[signum] = signal.signal(signum, self._note)
        if sys.stdin.isatty():
            self._terminal = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(signum).name
