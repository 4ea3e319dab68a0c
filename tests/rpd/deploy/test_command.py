import io

import numpy as np
import pytest

from rpd.cli.main import main
from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import consent
from rpd.deploy.robots.ur import URDriver
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import make
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig


def test_image_policy_moves_the_simulated_robot(tmp_path, capsys, monkeypatch, patient_robot):
    """From the command line: a small VLA acts on images of the simulated camera; its record is scored."""
    monkeypatch.chdir(tmp_path)
    policy = "zoo/tabletop"
    words = ["deploy", policy, "--robot", patient_robot, "--task", "tabletop/PushCube", "--seconds", "2", "--out", "a.rpdlog"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "time is up" in out or "solved" in out  # the policy may push the cube to the goal in time
    (played,) = Record(tmp_path / "a.rpdlog").played
    seen = Record(tmp_path / "a.rpdlog").observation(played, played.answered[0])
    assert seen["image.front"].dtype == np.uint8 and seen["image.front"].std() > 10
    assert np.ptp([tick["joints"] for tick in played.ticks], axis=0).max() > 0.01
    assert main(["log", "a.rpdlog", "--policy", policy]) == 0
    assert f"{len(played.answered)} of {len(played.answered)} actions are the same" in capsys.readouterr().out
    assert main(words) == 2  # the record exists
    assert "exists already" in capsys.readouterr().err


def test_real_robot_requires_confirmation_at_a_terminal(monkeypatch):
    with pytest.raises(ConfigError, match="confirmed at a terminal, or not at all"):
        consent.confirm_motion("ur5e")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    with pytest.raises(ConfigError, match="'yes' is not ur5e"):
        consent.confirm_motion("ur5e")
    monkeypatch.setattr("sys.stdin", Terminal("ur5e\n"))
    consent.confirm_motion("ur5e")


def test_mismatch_is_refused_before_start(capsys, tmp_path):
    for words, says in (
        (["deploy", "runs/none", "--robot", "sim"], "does not exist: expected a run"),
        (["deploy", "scripted", "--robot", "sim"], "for which task"),
        (["deploy", "scripted", "--robot", "sym", "--task", "tabletop/Reach"], "did you mean sim"),
        (["deploy", "scripted", "--robot", "sim", "--task", "tabletop/Reach", "--rate", "30"], "not a multiple"),
        (["log", str(tmp_path / "none.rpdlog")], "cannot be read"),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err


def test_policy_that_cannot_fit_is_refused_before_the_sdk(tmp_path, capsys, monkeypatch):
    """A policy of a Panda on a UR5e."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(URDriver, "connect", lambda self: pytest.fail("the SDK is asked for"))
    panda = make("tabletop/Reach", EnvConfig(num_envs=1, obs_mode="rgb", image_size=32))
    small = {"hidden_dims": (8,), "image_feature_dim": 8, "image_channels": (8, 8)}
    ActorCritic(panda.spec, StudentConfig(**small)).save_pretrained(tmp_path / "policy")
    assert main(["deploy", "policy", "--robot", "ur5e", "--dry-run", "True", "--out", "a.rpdlog"]) == 2
    assert "robot differ: policy (tabletop/Reach) has panda" in capsys.readouterr().err
