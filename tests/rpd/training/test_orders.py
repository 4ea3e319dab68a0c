"""What cannot fit is said before anything is asked for; part of a state is enough where a policy reads no more."""

import sys

import pytest

from rpd.cli.main import main
from rpd.runs.reader import runs_in
from rpd.training.on_policy import OnPolicyTrainer


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """A policy of the whole state, one of a part of it, and one of images in stacks of two."""
    root = tmp_path_factory.mktemp("runs")
    part, images = (
        {"state_keys": ("tcp", "goal", "gripper"), "hidden_dims": (8,)},
        {"hidden_dims": (8,), "state_estimator": False},
    )
    OnPolicyTrainer(small(total_timesteps=32), root / "whole").run()
    OnPolicyTrainer(small(total_timesteps=32, student=part), root / "part").run()
    seen = {
        "num_envs": 4,
        "obs_mode": "rgb",
        "cameras": ("front",),
        "image_size": 16,
        "frame_stack": 2,
        "max_episode_steps": 10,
    }
    OnPolicyTrainer(small(total_timesteps=32, student=images, env=seen), root / "images").run()
    return root


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["part", "images", "whole"])
def test_record_is_compared_with_the_exported_policy(runs, name, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("msgpack")
    assert main(["deploy", str(runs / name), "--robot", "sim", "--seconds", "0.5", "--out", "x.rpdlog"]) == 0
    assert main(["export", str(runs / name), "--out", "export"]) == 0
    capsys.readouterr()
    assert main(["log", "x.rpdlog", "--policy", "export"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    same, _, count = said.split(" actions")[0].partition(" of ")
    assert int(same) == int(count) > 3, said


@pytest.mark.parametrize("robot", ["ur5e", "panda", "xarm6", "so101"])
def test_policy_mismatch_is_reported_before_missing_sdk(runs, robot, capsys):
    """The whole state of a simulation is measured on no robot, whatever is installed, and wherever the robot is."""
    pytest.importorskip("msgpack")
    words = ["deploy", str(runs / "whole"), "--robot", robot, "--out", "x.rpdlog"]
    assert main(words + ([] if robot == "so101" else ["--host", "127.0.0.1"])) == 2
    said = capsys.readouterr().err
    assert "pip install" not in said and said.count("\n") == 1
    assert "differ" in said or "does not measure" in said or "not a multiple" in said, said


def test_missing_camera_is_reported_before_missing_sdk(runs, capsys):
    pytest.importorskip("msgpack")
    assert main(["deploy", str(runs / "images"), "--robot", "ur5e", "--host", "127.0.0.1", "--out", "x.rpdlog"]) == 2
    assert "pip install" not in capsys.readouterr().err


def test_missing_run_is_reported_before_missing_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_folder_of_runs_expands_to_its_runs(small, tmp_path, capsys):
    for seed in (0, 1):
        OnPolicyTrainer(small(total_timesteps=32, seed=seed), tmp_path / "s" / f"Reach-panda-seed{seed}").run()
    (tmp_path / "s" / "logs").mkdir()
    (tmp_path / "s" / "settings.yaml").write_text("{}")
    both = [tmp_path / "s" / f"Reach-panda-seed{seed}" for seed in (0, 1)]
    for given in (["s"], [str(path) for path in sorted((tmp_path / "s").iterdir())]):
        assert main(["report", *given]) == 0
        assert [path.resolve() for path in runs_in([tmp_path / p for p in given])] == both
    assert (tmp_path / "s" / "report.html").is_file()
    (tmp_path / "other").mkdir()
    assert main(["report", "other"]) == 2
    assert "other is not a run" in capsys.readouterr().err


def test_policy_folder_is_no_folder_of_runs(runs):
    assert runs_in([runs / "whole"]) == [runs / "whole"] and runs_in([runs / "nothing"]) == [runs / "nothing"]
