"""Real-time scheduling, where the system permits it."""

from __future__ import annotations

import os
import threading

ROBOT, LOOP = 30, 20
"""Priorities of the real-time scheduler, in 1 to 99."""
NICE = -10
"""Niceness of the processes that a deployment starts, and of its long computations: above normal, below real-time."""


def enable_realtime(priority: int) -> bool:
    """Give every thread of this process real-time priority; return whether the system permits it.

    Linux requires the capability CAP_SYS_NICE, or a limit: ``@robot - rtprio 50`` in /etc/security/limits.conf.
    """
    try:
        for thread in threading.enumerate():
            if thread.native_id is not None:
                os.sched_setscheduler(thread.native_id, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError):  # not granted; not Linux
        return False
    return True


def disable_realtime() -> None:
    """Return every thread of this process to normal scheduling."""
    for thread in threading.enumerate():
        if thread.native_id is not None:
            os.sched_setscheduler(thread.native_id, os.SCHED_OTHER, os.sched_param(0))


def raise_priority() -> None:
    """Raise the priority of this process and of its future children, where the system permits it."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return
