"""A node of a cluster before the first job: the folders that it shares, and its version of rpd."""

from __future__ import annotations

import time
from pathlib import Path

from rpd.core.version import __version__

WAIT_S = 10.0
"""Time that a network file system has to show a new file, seconds."""


def look(token: str, cwd: str, version: str) -> str:
    """Check the node that runs this.

    Args:
        token: a file that the driver has written.
        cwd: working folder of the driver.
        version: version of rpd of the driver.

    Returns:
        Predicate of a sentence about the node; empty if there is no problem.
    """
    if version != __version__:
        return f"has rpd {__version__}, this machine {version}: install the same"
    if not Path(cwd).is_dir():
        return f"has no folder {cwd}: start from a folder that every node has"
    deadline = time.monotonic() + WAIT_S
    while not Path(token).exists():
        if time.monotonic() > deadline:
            return f"does not share {Path(token).parent}: choose a results folder on a file system of all nodes"
        time.sleep(0.2)
    return ""
