"""Polling of a slow value in a thread, e.g. of a gripper with its own socket."""

from __future__ import annotations

import threading
from collections.abc import Callable

RATE = 20.0  # Hz


class Polled:
    """Latest value of a function, called periodically in a thread.

    Attributes:
        value: latest value.
        failed: reason of the failure that ended polling, or None.
    """

    def __init__(self, ask: Callable[[], float], errors: tuple[type[BaseException], ...]) -> None:
        """Call the function once, then start polling.

        Args:
            ask: the function; called from one thread at a time.
            errors: exceptions that end polling.
        """
        self.value = ask()
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
            except self._errors as error:
                self.failed = str(error) or type(error).__name__
                return
