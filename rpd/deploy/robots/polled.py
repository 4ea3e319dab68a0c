"""Slow devices in threads of their own, e.g. a gripper with its own socket: polled values, and sent commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RATE = 20.0  # Hz


class Polled:
    """Latest value of a function, called periodically in a thread.

    Attributes:
        value: latest value.
        time: time of its answer, `time.monotonic`.
        failed: reason of the failure that ended polling, or None.
    """

    def __init__(self, ask: Callable[[], float], errors: tuple[type[BaseException], ...]) -> None:
        """Call the function once, then start polling.

        Args:
            ask: the function; called from one thread at a time.
            errors: exceptions that end polling.
        """
        self.value, self.time = ask(), time.monotonic()
        self.failed: str | None = None
        self._ask, self._errors, self._done = ask, errors, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="polled")
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(1 / RATE):
            try:
                self.value = self._ask()
                self.time = time.monotonic()
            except self._errors as error:
                self.failed = str(error) or type(error).__name__
                return


class Sent:
    """Sends the newest value in a thread: the control loop never waits for a device that answers late or not at all.

    Attributes:
        failed: reason of the failure that ended sending, or None.
    """

    def __init__(self, tell: Callable[[float], None], errors: tuple[type[BaseException], ...]) -> None:
        """Start the thread.

        Args:
            tell: sends a value to the device; may block.
            errors: exceptions that end sending.
        """
        self.failed: str | None = None
        self._tell, self._errors = tell, errors
        self._newest: float | None = None
        self._changed, self._done = threading.Condition(), False
        threading.Thread(target=self._run, daemon=True, name="sent").start()

    def send(self, value: float) -> None:
        """Send a value, unless it is the newest one already. Does not wait; a value that is not yet sent is replaced."""
        with self._changed:
            if value != self._newest:
                self._newest = value
                self._changed.notify()

    def close(self) -> None:
        """Send nothing more. A call that blocks is left alone."""
        with self._changed:
            self._done = True
            self._changed.notify()

    def _run(self) -> None:
        sent: float | None = None
        while True:
            with self._changed:
                while not self._done and self._newest == sent:
                    self._changed.wait()
                if self._done or self._newest is None:
                    return
                sent = self._newest
            try:
                self._tell(sent)
            except self._errors as error:
                self.failed = str(error) or type(error).__name__
                return
