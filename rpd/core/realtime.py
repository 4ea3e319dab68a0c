"""The processor when it is needed: real-time scheduling, where the system grants it."""

from __future__ import annotations

import os
import threading

ROBOT, LOOP = 30, 20
"""Priorities of the real-time scheduler, of 1 to 99."""
NICE = -10
"""Of all that a deployment starts, and what computes for long in it: before others, but not before everything."""


def promise(priority: int) -> bool:
    """Run every thread of this process before all that is not real-time; returns whether the system lets us.

    Linux wants the capability CAP_SYS_NICE for it, or a limit: ``@robot - rtprio 50`` in /etc/security/limits.conf.
    """
    try:
        for thread in threading.enumerate():
            if thread.native_id is not None:
                os.sched_setscheduler(thread.native_id, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError):  # not granted; not Linux
        return False
    return True


def release() -> None:
    """Run as other processes do."""
    for thread in threading.enumerate():
        if thread.native_id is not None:
            os.sched_setscheduler(thread.native_id, os.SCHED_OTHER, os.sched_param(0))


def prefer() -> None:
    """Run this process, and those that it starts, before others, where the system lets us."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return
