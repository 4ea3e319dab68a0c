"""Jobs of SLURM, one per process, by submitit. Preempted, timed-out and lost jobs are submitted again."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rpd.config.launch import SlurmConfig
from rpd.envs.errors import ConfigError, missing_package
from rpd.launch import attempts
from rpd.launch.attempt import request, run, stop
from rpd.launch.job import INTERRUPTED, Ended, Job

GRACE_S = 15.0
"""Time that a network file system has to show the end of a job, seconds."""
READ_S = 1.0
"""Time between two looks at a file of attempts, seconds."""
SIGNAL_S = 120
"""Time before a job's limit at which it saves a checkpoint and is queued again, seconds."""
LOGS = "submitit"
"""Folder of submitit next to the logs."""


class SlurmAttempt:
    """The function that submitit runs on a node.

    Args:
        text: see `rpd.launch.attempt.request`.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self) -> int:
        """Run the attempt; SIGTERM, e.g. of scancel, saves a checkpoint."""
        signal.signal(signal.SIGTERM, _interrupt)
        return run(self._text)[0]

    def checkpoint(self) -> Any:
        """End the command, which saves a checkpoint; return the submission that continues the preempted or timed-out job."""
        import submitit

        stop(SIGNAL_S / 2)
        return submitit.helpers.DelayedSubmission(SlurmAttempt(self._text))


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class SlurmJob:
    """A job of SLURM; see `rpd.launch.base.Running`.

    Args:
        executor: submitit's executor.
        job: the job.
        retries: new submissions of a job that is lost.
    """

    def __init__(self, executor: Any, job: Job, retries: int) -> None:
        self._executor, self._job, self._retries, self._stopping = executor, job, retries, False
        self._text = request(job, attempts.create(job))
        self._history, self._read_at = attempts.History(), 0.0
        self._seen = 0  # ends of earlier submissions
        self._submit()

    def poll(self) -> Ended | None:
        """Return the end that the job has recorded; without one, submit a lost job again."""
        history = self._look()
        if len(history.ends) > self._seen:
            ended = history.ends[-1]
            if ended.code != INTERRUPTED or self._stopping or not self._retries:
                return ended
            self._again(len(history.ends))
        elif self._gone():
            if self._stopping:
                return Ended(INTERRUPTED)
            if not self._retries:
                return Ended(1, f"lost {len(history.hosts)} times: see {self._job.log.parent / LOGS}")
            self._again(len(history.ends))
        return None

    def place(self) -> str:
        """Return the node of the newest attempt."""
        return self._look().place

    def stop(self) -> None:
        """Cancel the job: SLURM sends SIGTERM, and SIGKILL after its KillWait."""
        self._stopping = True
        self._submitted.cancel(check=False)

    def kill(self) -> None:
        """Cancel the job."""
        self.stop()

    def _submit(self) -> None:
        import submitit

        try:
            self._submitted = self._executor.submit(SlurmAttempt(self._text))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise ConfigError(f"sbatch refuses {self._job.name}: {' '.join(str(error).split())}") from None
        self._gone_at: float | None = None

    def _again(self, seen: int) -> None:
        self._retries -= 1
        self._seen = seen
        self._submit()

    def _look(self) -> attempts.History:
        if time.monotonic() - self._read_at > READ_S:
            self._history, self._read_at = attempts.read(self._job), time.monotonic()
        return self._history

    def _gone(self) -> bool:
        """Whether the job has left SLURM without a record of its end."""
        if not self._submitted.done():
            self._gone_at = None
            return False
        self._gone_at = self._gone_at or time.monotonic()
        return time.monotonic() - self._gone_at > GRACE_S


class SlurmLauncher:
    """Runs jobs on SLURM; see `rpd.launch.base.Launcher`.

    Args:
        config: options of the jobs.
        retries: new submissions of a job that is lost.

    Raises:
        ConfigError: submitit or SLURM's commands are not installed.
    """

    poll_s = 1.0

    def __init__(self, config: SlurmConfig, retries: int) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise missing_package("--launcher slurm", "submitit", "slurm") from None
        missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
        if missing and config.executor == "slurm":
            raise ConfigError(f"--launcher slurm needs {missing[0]} on the PATH: run it on a login node of the cluster")
        self._config, self._retries = config, retries

    def check(self, jobs: Sequence[Job], folder: Path) -> None:
        """Check that SLURM can count the GPUs; the folder is checked where each job begins."""
        if jobs[0].gpus is not None and jobs[0].gpus != int(jobs[0].gpus):
            raise ConfigError(f"--gpus-per-run {jobs[0].gpus:g}: SLURM gives whole GPUs")

    def at_once(self, job: Job) -> int | None:
        """Return None, SLURM queues the jobs; for submitit's own executor, one."""
        return 1 if self._config.executor == "local" else None

    def start(self, job: Job, slot: int) -> SlurmJob:
        """Submit the job."""
        import submitit

        config = self._config
        executor = submitit.AutoExecutor(
            job.log.absolute().parent / LOGS / "%j", config.executor, **{f"{config.executor}_max_num_timeout": self._retries}
        )
        executor.update_parameters(
            name=f"rpd-{job.name}",
            timeout_min=config.time,
            cpus_per_task=job.cpus,
            gpus_per_node=int(job.gpus) if job.gpus else None,
            mem_gb=config.memory,
            stderr_to_stdout=True,
            slurm_partition=config.partition,
            slurm_account=config.account,
            slurm_signal_delay_s=SIGNAL_S,
        )
        return SlurmJob(executor, job, self._retries)

    def close(self) -> None:
        """Nothing to release."""
