"""Navigation is learnt with the settings that ship, and cloned bases go to other bases."""

from __future__ import annotations

import json

import pytest

from rpd import cli

FEW = ["--num-threads", "1", "--eval-every", "1000000", "--final-episodes", "50"]


@pytest.mark.slow
def test_it_learns_from_a_planner_that_half_works(tmp_path):
    args = [
        "navigate/Open",
        "--teacher",
        "scripted:noisy",
        "--total-steps",
        "60000",
        "--name",
        "x",
        "--runs-dir",
        str(tmp_path),
    ]
    assert cli.main(["train", *args, *FEW]) == 0
    result = json.loads((tmp_path / "x" / "result.json").read_text())
    assert result["student"]["rate"] > 0.4 and result["teacher_eval"]["rate"] < 0.6
    assert 3 < result["student"]["travel_time"] < 20  # s


def test_a_base_is_cloned_on_wheels_and_corrected_on_legs(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    collect = ["navigate/Open", "--teacher", "scripted", "--env.obs", "state", "--privileged", "True"]
    assert cli.main(["collect", *collect, "--env.num-envs", "8", "--episodes", "8", "--out", "demos/x"]) == 0
    clone = ["--mode", "bc", "--demos", "demos/x", "--student.reads", "range", "goal", "velocity", "command"]
    assert cli.main(["train", "navigate/Open", *clone, "--total-steps", "512", "--name", "base", *FEW]) == 0
    assert cli.main(["eval", "runs/base", "--robot", "car", "--episodes", "4", "--out", "eval"]) == 0
    assert "weighted_travel_time" in json.loads((tmp_path / "eval" / "eval.json").read_text())
    few = ["--total-steps", "256", "--env.num-envs", "4", "--ppo.num-steps", "32", "--final-episodes", "4", "--name", "legs"]
    assert cli.main(["residual", "runs/base", "navigate/Rooms", "--robot", "legged", *FEW[:4], *few]) == 0
