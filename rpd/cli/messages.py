"""Print the library's log messages in a terminal, unformatted and unbuffered."""

from __future__ import annotations

import logging
import sys

from rpd.core.ranks import rank

SEPARATE = ("rpd.teachers", "rpd.students", "rpd.datasets.deploy_log")
"""Packages whose messages go to stderr, so that they do not mix with output that another program reads."""


class MessageHandler(logging.Handler):
    """Prints messages to stdout, and those of `SEPARATE` packages to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        text = record.getMessage() if rank() == 0 else f"rank {rank()}: {record.getMessage()}"
        print(text, file=sys.stderr if record.name.startswith(SEPARATE) else sys.stdout, flush=True)


def show_messages() -> None:
    """Print log messages of the library from level INFO on, from WARNING on at ranks other than 0; once per process."""
    logger = logging.getLogger("rpd")
    if not any(isinstance(handler, MessageHandler) for handler in logger.handlers):
        logger.addHandler(MessageHandler())
        logger.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
