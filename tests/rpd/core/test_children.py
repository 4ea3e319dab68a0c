"""Processes that are started: never from what lies in the working folder, and ending with the process that started them."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpd.envs.processes import python
from rpd.students.io.locks import LOCK, is_locked

ROOT = Path(__file__).parents[3]
SHADOWS = ("configs", "envs", "students", "teachers", "rpd", "tyro.py", "torch.py", "json.py", "signal.py", "multiprocessing")
SETTINGS = """
out: out
tasks: [tabletop/Reach]
robots: [panda]
seeds: [0, 1]
settings:
  algorithm: ppo
  env: {num_envs: 4, max_episode_steps: 10}
  student: {hidden_dims: [8]}
  ppo: {num_steps: 8}
  total_timesteps: STEPS
  eval_freq: 1000000
  eval_episodes: 2
  final_eval_episodes: 2
  save_freq: 32
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with files of the names that are imported; each says so, and fails."""
    for name in SHADOWS:
        path = tmp_path / name if name.endswith(".py") else tmp_path / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\nraise ImportError({name!r})\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rpd(*words):
    return python("from rpd.cli.main import main; sys.exit(main())", *words)


def test_started_interpreter_has_the_path_of_this_one(folder):
    code = "import configs, envs, tyro, json; print(sys.path); print(envs.__file__)"
    path, at = subprocess.run(python(code), capture_output=True, text=True, check=True).stdout.splitlines()
    assert ast.literal_eval(path) == [p or os.getcwd() for p in sys.path] and Path(at) == ROOT / "envs" / "__init__.py"
    assert not (folder / "imported").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="only its own children are protected on Python 3.10")
def test_children_of_libraries_are_protected(folder):
    code = "from rpd.cli.main import main; main(['--version']); from multiprocessing import get_context as g; {}"
    code = code.format("p = g('spawn').Process(target=print); p.start(); p.join(); sys.exit(p.exitcode)")
    assert subprocess.run(python(code), check=False).returncode == 0
    assert not (folder / "imported").exists()


@pytest.mark.slow
def test_sweep_runs_in_a_folder_with_names_of_modules(folder):
    (folder / "s.yaml").write_text(SETTINGS.replace("STEPS", "32"))
    assert subprocess.run(rpd("sweep", "s.yaml", "--jobs", "1"), capture_output=True, check=False).returncode == 0
    assert not (folder / "imported").exists()
    assert all((folder / "out" / f"Reach-panda-seed{i}" / "result.json").exists() for i in (0, 1))


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def running(run):
    return (run / "checkpoints" / "last").exists() and is_locked(run / LOCK)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP])
def test_runs_end_with_their_sweep_and_save_themselves(signum, tmp_path, monkeypatch):
    """And nobody else trains the same folder meanwhile."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SETTINGS.replace("STEPS", "100000000"))
    sweep = subprocess.Popen(rpd("sweep", "s.yaml", "--jobs", "1"), stdout=subprocess.DEVNULL, start_new_session=True)
    run = Path("out/Reach-panda-seed0")
    try:
        until(lambda: running(run))
        if signum == signal.SIGKILL:
            said = subprocess.run(rpd("train", "--resume", str(run)), capture_output=True, text=True, check=False)
            assert said.returncode == 2 and f"{run} is being written by process" in said.stderr
    finally:
        sweep.send_signal(signum)
        sweep.wait()
    until(lambda: not is_locked(run / LOCK))
    assert "to continue: rpd train --resume" in Path("out/logs/Reach-panda-seed0.log").read_text()
