"""Jobs as child processes of this one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rpd.core import children
from rpd.envs.errors import ConfigError
from rpd.launch.job import Ended, Job


class LocalJob:
    """A child process; see `rpd.launch.base.Running`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> Ended | None:
        """Return the exit code; negative: the number of the signal that ended the process."""
        code = self._process.poll()
        return None if code is None else Ended(code, f"ended by signal {-code}" if code < 0 else "")

    def place(self) -> str:
        """Return that the process runs here."""
        return "this machine"

    def stop(self) -> None:
        """Send SIGINT."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


class LocalLauncher:
    """Runs jobs on this machine; see `rpd.launch.base.Launcher`.

    Args:
        gpus: number of GPUs of this machine.
    """

    poll_s = 0.2

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def check(self, jobs: Sequence[Job], folder: Path) -> None:
        """Check that this machine has the resources."""
        for job in jobs[:1]:
            if job.gpus and job.gpus > self._gpus:
                raise ConfigError(f"--gpus-per-run {job.gpus:g}: this machine has {self._gpus} GPUs")
            if job.cpus > (count := os.cpu_count() or 1):
                raise ConfigError(f"--cpus-per-run {job.cpus}: this machine has {count} CPUs")

    def at_once(self, job: Job) -> int:
        """Default number of jobs: one per GPU, or per core without GPUs."""
        if self._gpus and job.gpus != 0:
            return max(int(self._gpus / (job.gpus or 1)), 1)
        return max((os.cpu_count() or 1) // job.cpus, 1)

    def start(self, job: Job, slot: int) -> LocalJob:
        """Start the process in a session of its own: Ctrl-C reaches it once, forwarded by this process."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        where = job.environment()
        if self._gpus or job.gpus == 0:
            where["CUDA_VISIBLE_DEVICES"] = self._devices(job, slot)
        with job.log.open("ab") as file:
            return LocalJob(children.start(job.command(), file, where, own_session=True))

    def close(self) -> None:
        """Nothing to release."""

    def _devices(self, job: Job, slot: int) -> str:
        """GPUs of a slot, e.g. ``"2,3"``."""
        share = 1 if job.gpus is None else job.gpus
        return ",".join(str((int(slot * share) + i) % self._gpus) for i in range(math.ceil(share)))
