"""SLURM's launcher through submitit's own executor on this machine; the loss of a job."""

import json
import os
import signal
from pathlib import Path

import pytest

from rpd.students.io.locks import LOCK, is_locked
from tests.rpd.launch.conftest import histories, same_results, underway, until

pytest.importorskip("submitit", reason="submitit is not installed")
ON_SLURM = ["--launcher", "slurm", "--slurm.executor", "local"]


def holder(lock):
    return json.loads(lock.read_text())["pid"]


def test_lost_job_continues(driver, evaluation, sweep, all_end):
    shards = driver(*evaluation(8), "--shards", "2", "--out", "merged", "--jobs", "2", *ON_SLURM)
    until(lambda: underway(Path("merged/logs")), shards)
    all_end()
    out = shards.communicate(timeout=300)[0]
    assert shards.returncode == 0 and "2 of 2 ended" in out, out
    assert same_results(Path("merged"), Path("whole"))

    runs = driver("sweep", sweep([0], 1280, robots=["panda"]), *ON_SLURM)
    until(lambda: list(Path("sweep").glob("*/checkpoints/last")), runs)
    all_end()
    (run,) = (path.parent.parent for path in Path("sweep").glob("*/checkpoints/last"))
    assert is_locked(run / LOCK)
    os.kill(holder(run / LOCK), signal.SIGTERM)  # as a node does that ends its processes
    out = runs.communicate(timeout=300)[0]
    assert runs.returncode == 0, out
    assert (run / "result.json").exists()
    assert len(histories(Path("sweep/logs"))[run.name].hosts) == 2
