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
    out = shards.output()
    assert shards.returncode == 0 and "2 of 2 ended" in out, out
    assert same_results(Path("merged"), Path("whole"))

    runs = driver("sweep", sweep([0], 3200, robots=["panda"]), *ON_SLURM)
    run = Path("sweep/Reach-panda-seed0")
    until(lambda: is_locked(run / LOCK) and (run / "checkpoints/last").exists(), runs)
    all_end()
    os.kill(json.loads(Path("sweep/logs/Reach-panda-seed0.attempts").read_text().splitlines()[1])["pid"], signal.SIGUSR2)
    until(lambda: len(histories(Path("sweep/logs"))[run.name].hosts) == 2 and is_locked(run / LOCK), runs)
    all_end()
    os.kill(json.loads((run / LOCK).read_text())["pid"], signal.SIGTERM)  # as by a node that shuts down
    out = runs.output()
    assert runs.returncode == 0, out
    assert (run / "result.json").exists()
    assert len(histories(Path("sweep/logs"))[run.name].hosts) == 3 and "(attempt 3); 1 running" in out
    assert "to continue: rpd train --resume" in (run.parent / "logs" / f"{run.name}.log").read_text()


COMMANDS = {
    "sbatch": 'cp "$1" "$SEEN"; export SLURM_JOB_ID=7 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1; '
    '(SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 bash "$1" > /dev/null 2>&1 &); echo Submitted batch job 7',
    "srun": 'while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift;; esac; shift; done; exec "$@"',
    "sacct": "echo 'JobID|State|NodeList'; echo '7|RUNNING|here'",
    "scancel": "exit 0",
}


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Stand-ins for SLURM's commands, which run a batch script at once; returns a copy of the script."""
    (folder := tmp_path / "bin").mkdir()
    for name, code in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{code}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.sh"))
    return tmp_path / "seen.sh"


def test_options_of_a_batch_script(scheduler, driver, all_end):
    words = [
        "--cpus-per-run",
        "2",
        "--gpus-per-run",
        "1",
        "--slurm.partition",
        "p",
        "--slurm.account",
        "a",
        "--slurm.time",
        "9",
    ]
    words = [
        "eval",
        "zero",
        "--suite",
        "tabletop",
        "--task",
        "tabletop/PickCube",
        *words,
        "--slurm.memory",
        "3",
        "--shards",
        "1",
    ]
    shards = driver(*words, "--episodes", "2", "--video", "False", "--launcher", "slurm", "--out", "merged")
    until(scheduler.exists, shards)
    all_end()
    out = shards.output()
    assert shards.returncode == 0 and "1 of 1 ended" in out, out
    options = ["cpus-per-task=2", "gpus-per-node=1", "partition=p", "account=a", "time=9", "mem=3GB", "signal=USR2@120"]
    options += ["job-name=rpd-shard-1-of-1"]
    assert not [option for option in options if f"#SBATCH --{option}\n" not in scheduler.read_text()], scheduler.read_text()


def test_partition_that_does_not_exist(scheduler, driver, sweep):
    (scheduler.parent / "bin" / "sbatch").write_text("#!/bin/bash\necho error: invalid partition specified: p >&2\nexit 1\n")
    runs = driver("sweep", sweep([0], 64), "--launcher", "slurm", "--slurm.partition", "p")
    out = runs.output()
    assert runs.returncode == 2
    assert "rpd sweep: sbatch refuses Reach-panda-seed0: error: invalid partition specified: p" in out.splitlines()[-1]
