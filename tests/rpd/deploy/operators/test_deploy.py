"""`rpd deploy --operator keyboard` from the command line, at a pseudo-terminal."""

import os
import pty
import subprocess
import sys
import time

import pytest

from rpd.cli.main import main
from rpd.datasets.deploy_log.reader import Record
from rpd.datasets.reader import open_demos

DEPLOY = ["deploy", "scripted", "--task", "tabletop/Reach", "--operator"]


@pytest.mark.slow
def test_keys_take_over_and_another_key_stops(tmp_path, patient_robot):
    ours, theirs = pty.openpty()
    words = [*DEPLOY, "keyboard", "--robot", patient_robot, "--episodes", "50", "--out", "a.rpdlog"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rpd", *words], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    os.close(theirs)
    try:
        while "stop: any other key" not in (line := process.stdout.readline()):
            assert line, "the deployment has ended"
        while not (tmp_path / "a.rpdlog").exists() or (tmp_path / "a.rpdlog").stat().st_size < 20_000:
            time.sleep(0.05)  # ticks are recorded
        for typed in ("r", "r", "\n", "x"):
            os.write(ours, typed.encode())
            time.sleep(0.2)
        out = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 1 and "emergency stop: a key" in out
    ticks = [tick for played in Record(tmp_path / "a.rpdlog").played for tick in played.ticks]
    assert [tick["takeover"] for tick in ticks if "takeover" in tick] == ["device"]
    raised = [tick["raw"][2] for tick in ticks if tick.get("who") == "operator"]
    assert max(raised) == pytest.approx(0.3) and sum("returned" in tick for tick in ticks) == 1


def test_scripted_operator_corrects_a_policy_and_the_log_shows_it(tmp_path, patient_robot, monkeypatch, capsys):
    """A policy of pure noise: the operator takes over, and `rpd log` and the demonstrations have it."""
    monkeypatch.chdir(tmp_path)
    policy = "scripted:noise=1"
    words = ["deploy", policy, "--task", "tabletop/PickCube", "--operator", "scripted", "--robot", patient_robot]
    assert main([*words, "--stepped", "True", "--seconds", "2", "--out", "a.rpdlog"]) == 0
    assert main(["log", "a.rpdlog"]) == 0
    out = capsys.readouterr().out
    assert out.count("taken over") == 2 and "drift 1" in out
    demos = open_demos("a.rpdlog")
    assert 0 < demos.demonstrated(0).sum() < demos.num_steps


def test_operator_without_its_device_is_refused_before_anything_moves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for device, message in (("keyboard", "standard input is none"), ("gamepad", "no gamepad"), ("spacemouse", "spacemouse: ")):
        assert main([*DEPLOY, device, "--robot", "sim", "--out", "a.rpdlog"]) == 2
        assert message in capsys.readouterr().err
    assert main([*DEPLOY, "keyboard", "--robot", "sim", "--stepped", "True", "--out", "a.rpdlog"]) == 2
    assert "simulated time does not wait for a person" in capsys.readouterr().err
    assert not (tmp_path / "a.rpdlog").exists()
