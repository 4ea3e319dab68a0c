"""Every verb that writes claims its output before anything is built, holds it, and leaves nothing where it cannot start."""

import os
from pathlib import Path

import pytest

from rpd.cli.main import main
from rpd.config import resume
from rpd.config.generalist import DistillRun
from rpd.config.vla_finetuning import CloneConfig
from rpd.envs import registry
from rpd.envs.errors import ConfigError
from rpd.reporting import report_file
from rpd.students.io.locks import LOCK, is_locked, locked
from rpd.training.on_policy import OnPolicyTrainer

REACH = "tabletop/Reach"


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """A complete run, and one of two iterations."""
    root = tmp_path_factory.mktemp("runs")
    OnPolicyTrainer(small(total_timesteps=32), root / "x").run()
    return root


@pytest.fixture(autouse=True)
def in_a_folder(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").symlink_to(runs / "x")


STARTS = {
    "train": (["train", REACH, "--algorithm", "ppo", "--runs-dir", "out", "--name", "a"], "out/a"),
    "residual": (["residual", "x", REACH, "--runs-dir", "out", "--name", "a"], "out/a"),
    "generalist": (["generalist", "x", "--runs-dir", "out", "--name", "a"], "out/a"),
    "eval": (["eval", "x", "--episodes", "2", "--out", "out"], "out"),
    "eval of two": (["eval", "x", "zero", "--episodes", "2", "--out", "out"], "out/1-x"),
    "suite": (["eval", "x", "--suite", "tabletop", "--task", "tabletop/PushCube", "--out", "out"], "out"),
    "collect": (["data", "collect", REACH, "--policy", "scripted", "--out", "out"], "out"),
    "bench": (["bench", "env", "--task", REACH, "--out", "out"], "out"),
}


def lock_of(verb, folder):
    return Path(folder) / (".1-of-1.lock" if verb == "suite" else LOCK)


@pytest.mark.parametrize("verb", STARTS)
def test_claimed_before_environments_are_built_and_removed_if_the_start_fails(verb, monkeypatch, capsys):
    words, folder = STARTS[verb]
    seen = []

    def make(*args, **kwargs):
        seen.append(is_locked(lock_of(verb, folder)))
        raise ConfigError("no such environment")

    monkeypatch.setattr(registry, "make", make)
    assert main(words) == 2
    assert seen == [True] and capsys.readouterr().err.endswith("no such environment\n")
    assert not Path("out").exists()


@pytest.mark.parametrize("verb", STARTS)
def test_second_process_is_refused_in_one_line(verb, capsys):
    words, folder = STARTS[verb]
    lock = lock_of(verb, folder)
    lock.parent.mkdir(parents=True)
    with locked(lock, Path(folder)):
        assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{folder} is being written by process {os.getpid()} on " in said and said.count("\n") == 1


@pytest.mark.parametrize("verb", ["train", "eval", "eval of two", "suite", "collect", "bench"])
def test_results_of_others_are_not_written_over(verb, capsys):
    words, folder = STARTS[verb]
    Path(folder).mkdir(parents=True)
    (Path(folder) / "eval.json").write_text("mine")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert folder in said and said.count("\n") == 1
    assert os.listdir(folder) == ["eval.json"] and (Path(folder) / "eval.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("verb", "config"),
    [("train", None), ("generalist", DistillRun(runs=(Path("y"),))), ("teacher finetune", CloneConfig(data=(Path("d"),)))],
)
def test_two_resumes_at_once(verb, config, runs, capsys):
    before = (runs / "x/config.yaml").read_bytes()
    if config is not None:
        resume.write(runs / "x", config)
    with locked(runs / "x" / LOCK, runs / "x"):
        assert main([*verb.split(), "--resume", "x"]) == 2
    said = capsys.readouterr().err
    assert "x is being written by process" in said and said.count("\n") == 1
    (runs / "x/config.yaml").write_bytes(before)


def test_default_names_of_one_second_do_not_collide(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda _: "now")
    words = ["eval", "zero", "--task", REACH, "--episodes", "1", "--video", "False"]
    assert main(words) == main(words) == 0
    assert sorted(os.listdir("runs")) == ["eval-now-zero", "eval-now-zero-2"]
    bench = ["bench", "env", "--task", "navigate/Open", "--num-envs", "1", "--rounds", "1"]
    assert main(bench) == main(bench) == 0
    assert {"bench-env-now", "bench-env-now-2"} <= set(os.listdir("runs"))


def test_report_replaces_one_of_the_same_runs_alone(runs, tmp_path, capsys):
    Path("thesis.html").write_text("mine")
    assert main(["report", "x", "--out", "thesis.html"]) == 2
    said = capsys.readouterr().err
    assert "thesis.html exists already, and is no report of these runs" in said and said.count("\n") == 1
    assert Path("thesis.html").read_text() == "mine"
    for _ in range(2):
        assert main(["report", "x", "--out", "a.html"]) == 0
    assert report_file.is_whole(Path("a.html"))
    pair = [runs / "x", runs / "y"]
    first = report_file.place(pair, None)
    first.write_text("<html>" + report_file.mark(pair, first))
    assert report_file.place(pair[::-1], None) == first == runs.resolve() / "report.html"
    assert report_file.place([*pair, runs / "z"], None).name == "report-2.html"
    first.unlink()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system in which no folder can be created")
def test_a_folder_that_cannot_be_created_is_an_error_in_one_line(capsys):
    assert main(["train", REACH, "--algorithm", "ppo", "--runs-dir", "/proc/x", "--name", "a"]) == 1
    assert "No such file or directory" in capsys.readouterr().err
