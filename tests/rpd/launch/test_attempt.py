"""One attempt on a node: it starts or continues, waits for the lock of an earlier one, and ends when it is asked to."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rpd.launch import attempt, attempts, node_check
from rpd.launch.job import INTERRUPTED, Ended, Job
from rpd.students.io.locks import locked


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Job(
        "x", ("--version",), Path("logs/x.log"), again=("list", "suites"), begun=(Path("begun"),), lock=Path("x.lock"), cpus=2
    )


def test_job_survives_its_way_to_a_node(job):
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(Job("y", ("a",), Path("l")).to_json()) == Job("y", ("a",), Path("l"))
    assert job.environment() == {"OMP_NUM_THREADS": "2"}


def test_starts_then_continues(job):
    text = attempt.request(job, attempts.create(job))
    assert attempt.run(text) == (0, "")
    assert job.log.read_text() == "0.1.0\n"
    Path("begun").touch()
    assert attempt.run(text) == (0, "")
    assert "Suites (rpd eval --suite)" in job.log.read_text()
    history = attempts.read(job)
    assert len(history.hosts) == 2 and history.ends == (Ended(0), Ended(0)) and history.place.endswith(" (attempt 2)")


def test_folder_that_the_node_does_not_share(job, monkeypatch, tmp_path):
    monkeypatch.setattr(attempt, "SHARED_S", 0)
    text = attempt.request(job, attempts.create(job))
    attempts.create(job)  # a folder of the same name on another disk
    code, problem = attempt.run(text)
    assert code == 2 and f"does not share {tmp_path}/logs" in problem and not attempts.read(job).hosts
    code, problem = attempt.run(json.dumps({**json.loads(text), "cwd": "/nowhere"}))
    assert code == 2 and "has no folder /nowhere: start from a folder that every node has" in problem


def test_waits_for_the_lock_of_a_lost_node(job):
    text = attempt.request(job, attempts.create(job))
    with locked(job.lock, "x"):
        waiting = threading.Thread(target=attempt.run, args=(text,))
        waiting.start()
        while not attempts.read(job).hosts:
            time.sleep(0.01)
        assert not attempts.read(job).ends
    waiting.join(60)
    assert attempts.read(job).ends == (Ended(0),)


def test_interrupted_command_saves_itself_before_the_attempt_ends():
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(130)); print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,)).start()
    assert attempt.wait(process) == Ended(INTERRUPTED) and process.returncode == 130


@pytest.mark.parametrize(("number", "ended"), [(15, Ended(INTERRUPTED)), (9, None)])
def test_command_that_a_signal_ends(number, ended):
    process = subprocess.Popen([sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"])
    got = attempt.wait(process)
    assert got == ended if ended else (got.code, got.problem[:18]) == (-9, "ended by signal 9 ")


def test_truncated_file_of_attempts(job):
    token = attempts.create(job)
    attempts.record_start(job)
    with attempts.path_of(job).open("a") as file:
        file.write('{"code": 0, "prob')
    history = attempts.read(job)
    assert (history.token, len(history.hosts), history.ends) == (token, 1, ())


def test_node_check(tmp_path, monkeypatch):
    monkeypatch.setattr(node_check, "WAIT_S", 0)
    (token := tmp_path / "token").touch()
    assert node_check.look(str(token), str(tmp_path), "0.1.0") == ""
    assert "does not share" in node_check.look(str(tmp_path / "other"), str(tmp_path), "0.1.0")
    assert "has no folder /nowhere" in node_check.look(str(token), "/nowhere", "0.1.0")
    assert "has rpd 0.1.0, this machine 9.9: install the same" in node_check.look(str(token), str(tmp_path), "9.9")
