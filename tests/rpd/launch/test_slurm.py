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


def test_preempted_and_lost_jobs_continue(driver, evaluation, sweep, all_end):
    shards = driver(*evaluation(8), "--shards", "2", "--out", "merged", "--jobs", "2", *ON_SLURM)
    until(lambda: underway(Path("merged/logs")), shards)
    all_end()
    out = shards.communicate(timeout=300)[0]
    assert shards.returncode == 0 and "2 of 2 ended" in out, out
    assert same_results(Path("merged"), Path("whole"))

    runs = driver("sweep", sweep([0], 6400, robots=["panda"]), *ON_SLURM)
    run = Path("sweep/Reach-panda-seed0")
    until(lambda: is_locked(run / LOCK) and (run / "checkpoints/last").exists(), runs)
    all_end()
    os.kill(json.loads(Path("sweep/logs/Reach-panda-seed0.attempts").read_text().splitlines()[1])["pid"], signal.SIGUSR2)
    until(lambda: len(histories(Path("sweep/logs"))[run.name].hosts) == 2 and is_locked(run / LOCK), runs)
    all_end()
    os.kill(json.loads((run / LOCK).read_text())["pid"], signal.SIGTERM)  # as by a node that shuts down
    out = runs.communicate(timeout=300)[0]
    assert runs.returncode == 0, out
    assert (run / "result.json").exists()
    assert len(histories(Path("sweep/logs"))[run.name].hosts) == 3 and "(attempt 3); 1 running" in out
    assert "to continue: rpd train --resume" in (run.parent / "logs" / f"{run.name}.log").read_text()
