"""Navigation is learnt with the settings that ship, and cloned bases go to other bases."""

from __future__ import annotations

import json

import pytest

from rpd.cli import main

FEW = ["--num-threads", "1", "--eval-freq", "1000000", "--final-eval-episodes", "50"]


@pytest.mark.slow
def test_learns_from_a_weak_planner(tmp_path):
    args = [
        "navigate/Open",
        "--teacher",
        "scripted:noisy",
        "--total-timesteps",
        "60000",
        "--name",
        "x",
        "--runs-dir",
        str(tmp_path),
    ]
    assert main.main(["train", *args, *FEW]) == 0
    result = json.loads((tmp_path / "x" / "result.json").read_text())
    assert result["student"]["rate"] > 0.4 and result["teacher_eval"]["rate"] < 0.6
    assert 3 < result["student"]["travel_time"] < 20  # s


def test_bc_on_wheels_and_residual_on_legs(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    collect = ["navigate/Open", "--policy", "scripted", "--env.obs-mode", "state", "--privileged", "True"]
    assert main.main(["data", "collect", *collect, "--env.num-envs", "8", "--episodes", "8", "--out", "demos/x"]) == 0
    clone = ["--algorithm", "bc", "--demos", "demos/x", "--student.state-keys", "range", "goal", "velocity", "command"]
    assert main.main(["train", "navigate/Open", *clone, "--total-timesteps", "512", "--name", "base", *FEW]) == 0
    assert main.main(["eval", "runs/base", "--robot", "car", "--episodes", "4", "--out", "eval"]) == 0
    assert "weighted_travel_time" in json.loads((tmp_path / "eval" / "eval.json").read_text())
    few = [
        "--total-timesteps",
        "256",
        "--env.num-envs",
        "4",
        "--ppo.num-steps",
        "32",
        "--final-eval-episodes",
        "4",
        "--name",
        "legs",
    ]
    assert main.main(["residual", "runs/base", "navigate/Rooms", "--robot", "legged", *FEW[:4], *few]) == 0
