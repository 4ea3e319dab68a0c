"""Output folders and locks, with processes of their own: one writer at a time, nothing written over, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError
from rpd.students.io import locks
from rpd.students.io.locks import LOCK, is_locked, locked
from rpd.students.io.outputs import claimed, claimed_file, claimed_unused, made, staged, unused_file

ROOT = Path(__file__).parents[2]
HOLD = "import sys; sys.path.insert(0, {root!r})\nfrom pathlib import Path\nfrom rpd.students.io import outputs, locks\n{code}"


@pytest.fixture
def process(tmp_path):
    """Start Python code in `tmp_path`; it prints a line when it is where it shall be, and waits for its input."""
    started = []

    def start(code):
        words = [sys.executable, "-c", HOLD.format(root=str(ROOT), code=code)]
        one = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


CLAIM = "with outputs.claimed(Path('x'), 'taken'):\n print('held', flush=True); input(); Path('x/result').write_text('')"


def test_lock_is_exclusive_and_names_its_holder(process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    holder = process(CLAIM)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"^x is being written by process {holder.pid} on .+: wait for it, or end it$"):  # noqa: SIM117
        with claimed(Path("x"), "taken"):
            pass
    assert is_locked(Path("x") / LOCK)
    holder.communicate("\n")
    assert os.listdir("x") == ["result"] and not is_locked(Path("x") / LOCK)
    with pytest.raises(ConfigError, match=r"^taken$"), claimed(Path("x"), "taken"):
        pass


def test_lock_of_a_killed_process_is_released(process, tmp_path):
    holder = process(CLAIM)
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "x" / LOCK).exists() and not is_locked(tmp_path / "x" / LOCK)
    with claimed(tmp_path / "x", "taken"):
        (tmp_path / "x" / "result").write_text("")
    assert os.listdir(tmp_path / "x") == ["result"]


def test_many_starts_at_once_get_as_many_folders(process, tmp_path):
    go = "print('ready', flush=True); input()\nwith outputs.claimed_unused(Path('runs'), 'same') as f:\n"
    many = [process(f"{go} f.joinpath('who').write_text('{i}'); print(f, flush=True)") for i in range(6)]
    for one in many:
        assert one.stdout.readline() == "ready\n"
    for one in many:
        one.stdin.write("\n")
        one.stdin.flush()
    folders = [one.communicate()[0].strip() for one in many]
    assert sorted(folders) == ["runs/same", *(f"runs/same-{i}" for i in range(2, 7))]
    assert [(tmp_path / f / "who").read_text() for f in folders] == [str(i) for i in range(6)]


def test_concurrent_claims_of_one_name_have_one_winner(process, tmp_path):
    code = """print('ready', flush=True); input()
try:
    with outputs.claimed(Path('x'), 'taken'):
        Path('x/a').write_text(''); print('won', flush=True); input()
except Exception as error: print(type(error).__name__, flush=True)
"""
    many = [process(code) for _ in range(5)]
    for one in many:
        assert one.stdout.readline() == "ready\n"
    for one in many:
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.stdout.readline().strip() for one in many]
    assert sorted(said) == ["ConfigError"] * 4 + ["won"]


def test_empty_folder_is_removed_with_new_parents(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(ConfigError), claimed(tmp_path / "old" / "runs" / "x", "taken"):
        raise ConfigError("cannot start")
    with made(tmp_path / "old"):
        pass
    assert os.listdir(tmp_path) == ["old"] and os.listdir(tmp_path / "old") == []


def test_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(ConfigError, match="file is a file: results need a folder"), claimed(folder, "taken"):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_staged_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), staged(tmp_path / "x", "taken") as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with staged(tmp_path / "x", "taken") as folder:
        (folder / "whole").write_text("")
        assert not (tmp_path / "x").exists()
        with pytest.raises(ConfigError, match="is being written by process"), staged(tmp_path / "x", "taken"):
            pass
    assert os.listdir(tmp_path) == ["x"] and os.listdir(tmp_path / "x") == ["whole"]
    with pytest.raises(ConfigError, match=r"^taken$"), staged(tmp_path / "x", "taken"):
        pass


def test_files_are_claimed_alike(tmp_path):
    first, second = (unused_file(tmp_path, "deploy", ".rpdlog") for _ in range(2))
    assert [first.name, second.name] == ["deploy.rpdlog", "deploy-2.rpdlog"]
    with claimed_file(first, "taken"):
        first.write_text("record")
        with pytest.raises(ConfigError, match="is being written by process"), claimed_file(first, "taken"):
            pass
    with pytest.raises(ConfigError, match=r"^taken$"), claimed_file(first, "taken"):
        pass
    with claimed_file(second, "taken"):
        pass  # nothing was recorded
    assert os.listdir(tmp_path) == ["deploy.rpdlog"] and first.read_text() == "record"


def test_without_locks_new_folders_are_still_exclusive(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(locks.errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with claimed(tmp_path / "x", "taken"):
        assert "this file system has no locks" in capsys.readouterr().err
        with pytest.raises(ConfigError, match=r"^taken$"), claimed(tmp_path / "x", "taken"):
            pass
    with claimed_unused(tmp_path, "y") as first, claimed_unused(tmp_path, "y") as second:
        assert first != second


def test_removed_lock_file_is_locked_again(tmp_path):
    """A waiter opens the file of a holder that is about to remove it: holding what is gone protects nothing."""
    path = tmp_path / LOCK
    with locked(path, tmp_path):
        path.unlink()
        with locked(path, tmp_path):  # another file
            assert path.exists()
    assert not path.exists()
