"""A value that is slow to ask for, asked for in a thread: a gripper behind a socket of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

RATE = 20.0  # Hz


class Polled:
    """The newest answer of a function.

    Attributes:
        value: the newest answer.
        failed: why there will be no more, None as long as there may be.
    """

    def __init__(self, ask: Callable[[], float], errors: tuple[type[BaseException], ...]) -> None:
        """Ask once, and go on asking.

        Args:
            ask: the function; used by one thread alone.
            errors: what it raises when there is nobody to answer any more.
        """
        self.value = ask()
        self.failed: str | None = None
        self._ask, self._errors, self._done = ask, errors, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="polled")
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(1 / RATE):
            try:
                self.value = self._ask()
            except self._errors as error:
                self.failed = str(error) or type(error).__name__
                return
