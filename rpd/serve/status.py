"""Status display of a server: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque

import numpy as np
from rich.console import Console
from rich.status import Status as Spinner

LOG = logging.getLogger(__name__)
READY = "serving "
"""Beginning of the line that a server prints when clients can connect; the last word is its address."""


class Status:
    """Request counts of one server, on stdout.

    Attributes:
        clients: number of connected clients.
        requests: number of answered requests, including refused ones.
        refused: number of refused requests and connections.
        latencies: seconds from request to answer, for the latest requests.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        """Start the display; a pipe or log file gets a line at most every `every_s` seconds, and only on changes."""
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
        """Refresh the display; call a few times per second."""
        if self.spinner is not None:
            self.spinner.update(self.line())
        elif time.monotonic() - self.printed >= self.every_s and (line := self.line()) != self.shown:
            self.printed, self.shown = time.monotonic(), line
            LOG.info(line)

    def log(self, text: str) -> None:
        """Print a permanent line."""
        if self.spinner is not None:
            self.spinner.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            LOG.info(text)

    def close(self) -> None:
        """Restore the terminal and print the final counts."""
        if self.spinner is not None:
            self.spinner.stop()
        LOG.info(self.line())
