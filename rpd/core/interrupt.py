"""SIGINT and SIGTERM stop a run after the current iteration; a second signal stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A run stopped on request after an iteration; its newest checkpoint is up to date."""


class Interrupt:
    """Context in which the first SIGINT or SIGTERM only sets `requested`, and the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not print: the signal may interrupt a print, and streams are not reentrant.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this iteration, with a checkpoint (again: stop at once)\n")

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in the main thread only
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
