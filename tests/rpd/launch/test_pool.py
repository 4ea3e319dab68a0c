"""A pool of jobs on any launcher: how many at a time, what is logged, and how it stops."""

import logging
import os
import signal
from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError
from rpd.launch.job import Ended, Job
from rpd.launch.local import LocalLauncher
from rpd.launch.pool import Pool


class FakeJob:
    def __init__(self, job, launcher):
        self.job, self.launcher, self.polls, self.stopped, self.killed = job, launcher, 0, False, False

    def poll(self):
        self.polls += 1
        if self.launcher.signal and self.polls == 1:
            os.kill(os.getpid(), self.launcher.signal)
        if self.stopped:
            return Ended(130)
        return Ended(self.launcher.code) if not self.launcher.signal and self.polls > 2 else None

    def place(self):
        return "node-1" if self.polls < 2 else "node-2 (attempt 2)"

    def stop(self):
        self.stopped = True

    def kill(self):
        self.killed = True


class FakeLauncher:
    poll_s = 0.001

    def __init__(self, code=0, signal=None):
        self.code, self.signal, self.slots, self.jobs = code, signal, [], []

    def check(self, jobs, folder):
        self.checked = len(jobs)

    def at_once(self, job):
        return 2

    def start(self, job, slot):
        self.slots.append(slot)
        self.jobs.append(FakeJob(job, self))
        return self.jobs[-1]


def jobs(count, **changes):
    return [Job(f"job{i}", (), Path("x.log"), **changes) for i in range(count)]


def test_two_at_a_time_with_counts(caplog):
    caplog.set_level(logging.INFO)
    launcher = FakeLauncher()
    pool = Pool(launcher, jobs(4), Path("."))
    outcomes = list(pool.outcomes())
    assert launcher.checked == 4 and set(launcher.slots) == {0, 1} and not pool.interrupted
    assert [o.progress.split(",")[0] for o in outcomes] == [f"{i} of 4 ended" for i in (1, 2, 3, 4)]
    assert "about 0 s left" in outcomes[0].progress and "left" not in outcomes[-1].progress
    assert caplog.messages[:2] == ["job0: runs on node-1; 1 running, 3 waiting", "job1: runs on node-1; 2 running, 2 waiting"]
    assert "job0: runs on node-2 (attempt 2); 2 running, 2 waiting" in caplog.messages


def test_failure_names_its_log():
    (outcome,) = Pool(FakeLauncher(code=1), jobs(1), Path(".")).outcomes()
    assert outcome.failed and outcome.failure == "failed: job0: see x.log"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_running_and_starts_no_other(signum):
    launcher = FakeLauncher(signal=signum)
    pool = Pool(launcher, jobs(3), Path("."), at_once=1)
    assert [o.ended.code for o in pool.outcomes()] == [130]
    assert pool.interrupted and len(launcher.jobs) == 1 and not launcher.jobs[0].killed


def test_abandoned_pool_kills():
    launcher = FakeLauncher()
    outcomes = Pool(launcher, jobs(3), Path(".")).outcomes()
    next(outcomes)
    outcomes.close()
    assert launcher.jobs[1].killed


@pytest.mark.parametrize(
    ("gpus", "per_run", "at_once", "devices"),
    [
        (4, None, 4, ["0", "1", "2", "3"]),
        (4, 2, 2, ["0,1", "2,3"]),
        (1, 0.5, 2, ["0", "0"]),
        (2, 0.5, 4, ["0", "0", "1", "1"]),
        (2, 0, os.cpu_count(), [""]),
        (0, None, os.cpu_count(), None),
    ],
)
def test_gpus_of_this_machine(gpus, per_run, at_once, devices):
    launcher, (job,) = LocalLauncher(gpus), jobs(1, gpus=per_run)
    assert launcher.at_once(job) == at_once
    assert devices is None or [launcher._devices(job, slot) for slot in range(len(devices))] == devices


@pytest.mark.parametrize(
    ("changes", "message"), [({"gpus": 2}, "--gpus-per-run 2: .* has 1 GPUs"), ({"cpus": 9999}, "--cpus-per-run 9999")]
)
def test_this_machine_has_too_little(changes, message):
    with pytest.raises(ConfigError, match=message):
        Pool(LocalLauncher(1), jobs(1, **changes), Path("."))
