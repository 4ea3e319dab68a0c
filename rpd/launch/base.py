"""Interface of launchers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rpd.launch.job import Ended, Job


class Running(Protocol):
    """A job that was handed to a launcher."""

    def poll(self) -> Ended | None:
        """Return the end of the job; None while it waits for resources or runs."""

    def place(self) -> str:
        """Return where the job runs now, e.g. ``"node-7 (attempt 2)"``; empty while it waits."""

    def stop(self) -> None:
        """Ask the job to save a checkpoint and end."""

    def kill(self) -> None:
        """End the job at once."""


class Launcher(Protocol):
    """Decides where jobs run."""

    poll_s: float
    """Time between two calls of `Running.poll`, seconds."""

    def check(self, jobs: Sequence[Job], folder: Path) -> None:
        """Check that the jobs can run.

        Args:
            jobs: the jobs; all ask for the same resources.
            folder: folder of their results, which exists.

        Raises:
            ConfigError: e.g. missing resources, or a folder that a node does not share.
        """

    def at_once(self, job: Job) -> int | None:
        """Default number of jobs at a time; None: the cluster's scheduler decides."""

    def start(self, job: Job, slot: int) -> Running:
        """Start a job.

        Args:
            job: the job.
            slot: number of the job among those that run at the same time, from 0.

        Raises:
            ConfigError: the scheduler refuses the job.
        """

    def close(self) -> None:
        """Release the connection to the cluster."""
