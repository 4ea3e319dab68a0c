"""What a person sees while a server runs: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np
from rich.console import Console
from rich.status import Status as Spinner


class Status:
    """Counts of one server, on stdout.

    Attributes:
        clients: connected now.
        requests: answered, refused ones included.
        refused: of them; and connections that were not let in.
        latencies: seconds from a request's arrival to its answer, of the newest.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        """Show; a pipe or a log file gets a line at most every `every_s` seconds, and only when there is news."""
        self.every_s = every_s
        self.clients = self.requests = self.refused = 0
        self.latencies: deque[float] = deque(maxlen=1000)
        self.shown = ""
        self.printed = time.monotonic()
        self.spinner: Spinner | None = Console(file=sys.stdout).status("") if sys.stdout.isatty() else None
        if self.spinner is not None:
            self.spinner.start()

    def line(self) -> str:
        """Return the counts as one line of text."""
        parts = [f"{self.clients} client{'' if self.clients == 1 else 's'}", f"{self.requests:,} requests"]
        if self.refused:
            parts.append(f"{self.refused:,} refused")
        if self.latencies:
            p50, p95 = 1000 * np.percentile(list(self.latencies), (50, 95))
            parts.append(f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms")
        return " · ".join(parts)

    def update(self) -> None:
        """Show the newest counts. To be called a few times per second."""
        if self.spinner is not None:
            self.spinner.update(self.line())
        elif time.monotonic() - self.printed >= self.every_s and (line := self.line()) != self.shown:
            self.printed, self.shown = time.monotonic(), line
            print(line, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.spinner is not None:
            self.spinner.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found, with the last counts."""
        if self.spinner is not None:
            self.spinner.stop()
        print(self.line(), flush=True)
