import json
import re
from pathlib import Path

import pytest

from envs.errors import ConfigError, RunFault
from rpd.progress import Display, evaluation_line
from rpd.track import Tracker, read_metrics


def test_lines_are_on_disk_at_once_and_tensorboard_gets_the_same_tags(tmp_path):
    with Tracker(tmp_path, 100) as tracker:
        tracker.log(50, {"loss/policy": 0.5, "rollout/success": float("nan")})
        assert read_metrics(tmp_path) == [{"step": 50, "loss/policy": 0.5}]
        tracker.log(100, {"eval/success": 1.0})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["scalars"] == ["loss/policy", "eval/success"]
    assert [(e.step, e.value) for e in board.Scalars("loss/policy")] == [(50, 0.5)]


@pytest.mark.parametrize("torn", ["", '{"step": 40, "loss/pol', '{"step": 40, "loss/policy": 4.0}'])
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path, torn):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Tracker(whole, 40) as tracker:
        for step in (10, 20, 30, 40):
            tracker.log(step, {"loss/policy": step / 10})
    with Tracker(killed, 40) as tracker:
        for step in (10, 20, 30):
            tracker.log(step, {"loss/policy": step / 10})
    with (killed / "metrics.jsonl").open("a") as file:
        file.write(torn)  # kill -9 in the middle of a line
    assert [m["step"] for m in read_metrics(killed)] == [10, 20, 30]
    with Tracker(killed, 40, resume_step=20) as tracker:
        for step in (30, 40):
            tracker.log(step, {"loss/policy": step / 10})
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_new_record_starts_empty_and_a_run_without_one_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    Tracker(tmp_path, 10).close()
    assert read_metrics(tmp_path) == []


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_fault_of_the_run(tmp_path):
    with pytest.raises(RunFault, match=r"metrics\.jsonl: No space left"), Tracker(tmp_path, 10) as tracker:
        tracker.file.close()
        tracker.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        tracker.log(1, {"loss/policy": 1.0})


def test_without_a_terminal_the_display_prints_plain_lines(capsys):
    display = Display(200, every_s=1e9)
    display.update(50, {"time/sps": 3000.0, "rollout/success": 0.25, "rollout/return": -3.5, "distill/weight": 2.0})
    display.update(100, {"rollout/success": 0.5})  # within every_s of the first: silent
    display.update(100, {"eval/success": 0.5, "eval/success_lo": 0.4, "eval/success_hi": 0.6})
    display.update(200, {"rollout/success": 0.75})
    display.close()
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out
    first, evaluation, last = out.splitlines()
    assert re.fullmatch(r"50/200 · 3,000 steps/s · success 25% · return -3\.50 · distill 2\.00 · 0:00:00 left", first), first
    assert evaluation == evaluation_line(100, {"eval/success": 0.5, "eval/success_lo": 0.4, "eval/success_hi": 0.6})
    assert evaluation == "100 steps: evaluated, success 50% (95 % interval 40% to 60%)"
    assert last.startswith("200/200 · 3,000 steps/s · success 75%")


def test_a_terminal_gets_a_live_bar(monkeypatch, tmp_path):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    with Tracker(tmp_path, 100) as tracker:
        tracker.log(100, {"rollout/success": 0.9})
    assert "\x1b[" in screen.getvalue() and "success 90%" in screen.getvalue()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 100, "rollout/success": 0.9}
