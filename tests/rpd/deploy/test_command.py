import io

import numpy as np
import pytest

from envs.errors import ConfigError
from rpd.cli import main
from rpd.deploy import command
from rpd.deploy.recorded import Record


def test_a_policy_that_sees_moves_the_robot_and_is_asked_again(tmp_path, capsys, monkeypatch):
    """From the command line: a small VLA looks through the simulated camera; its record is scored."""
    monkeypatch.chdir(tmp_path)
    policy = "teacher:zoo/tabletop"
    words = ["deploy", policy, "--robot", "sim", "--task", "tabletop/PushCube", "--seconds", "1", "--out", "a.rpdlog"]
    assert main(words) == 0
    assert "time is up" in capsys.readouterr().out
    (played,) = Record(tmp_path / "a.rpdlog").played
    seen = Record(tmp_path / "a.rpdlog").observation(played, played.answered[0])
    assert seen["image.front"].dtype == np.uint8 and seen["image.front"].std() > 10
    assert np.ptp([tick["joints"] for tick in played.ticks], axis=0).max() > 0.01
    assert main(["replay", "a.rpdlog", "--policy", policy]) == 0
    assert f"{len(played.answered)} of {len(played.answered)} actions are the same" in capsys.readouterr().out
    assert main(words) == 2  # the record exists
    assert "exists already" in capsys.readouterr().err


def test_a_real_robot_moves_after_a_word_at_a_terminal(monkeypatch):
    with pytest.raises(ConfigError, match="confirmed at a terminal, or not at all"):
        command._confirm("ur5e")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    with pytest.raises(ConfigError, match="'yes' is not ur5e"):
        command._confirm("ur5e")
    monkeypatch.setattr("sys.stdin", Terminal("ur5e\n"))
    command._confirm("ur5e")


def test_what_does_not_fit_is_said_before_anything_starts(capsys, tmp_path):
    for words, says in (
        (["deploy", "runs/none", "--robot", "sim"], "unknown policy"),
        (["deploy", "teacher:scripted", "--robot", "sim"], "for which task"),
        (["deploy", "teacher:scripted", "--robot", "sym", "--task", "tabletop/Reach"], "did you mean sim"),
        (["deploy", "teacher:scripted", "--robot", "sim", "--task", "tabletop/Reach", "--rate", "30"], "no multiple"),
        (["replay", str(tmp_path / "none.rpdlog")], "cannot be read"),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err
